"""The content of a transfer study's report, the same for the terminal, the page, the figures and W&B."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from advlab.report.numbers import percent, span
from advlab.studies.transfer import paper_numbers
from advlab.transfer.controls import describe

CLEAN = "clean images"
"""The row of images that nobody distorted."""
AMONG = "among images that it classifies correctly when clean"


@dataclass(frozen=True, slots=True)
class Cell:
    """One target's answers to one source's examples; rates are fractions, None where they are undefined.

    Attributes:
        source: the model the examples were made for, a control, or `CLEAN`.
        ci_low, ci_high: the Wilson 95% interval of ``error_rate``.
        conditional_error_rate: share misclassified among the examples that the target classifies correctly when clean.
        same_mistake_rate: share misclassified as the very class that the attacked model sees in them.
        paper: the paper's error rate, or None.
    """

    source: str
    target: str
    n: int
    error_rate: float
    ci_low: float
    ci_high: float
    conditional_error_rate: float | None = None
    same_mistake_rate: float | None = None
    paper: float | None = None

    @property
    def is_self(self) -> bool:
        return self.source == self.target


@dataclass(frozen=True, slots=True)
class Row:
    """One source's examples, before every target; a cell that the study lacks is None."""

    source: str
    is_control: bool
    mean_rms: float | None
    paper_rms: float | None
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """The matrix in display order: models first, then controls.

    ``clean`` has the targets' answers to the clean images; None where ``matrix.parquet`` does not have them.
    """

    targets: tuple[str, ...]
    rows: tuple[Row, ...]
    clean: Row | None

    @property
    def groups(self) -> list[tuple[Row, ...]]:
        """All rows as they are shown: clean images, models, controls, a gap between them."""
        groups = [() if self.clean is None else (self.clean,), self.models, self.controls]
        return [rows for rows in groups if rows]

    @property
    def models(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if not row.is_control)

    @property
    def controls(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.is_control)

    @property
    def has_paper(self) -> bool:
        """Whether any cell has a number of the paper beside it."""
        return any(cell is not None and cell.paper is not None for row in self.rows for cell in row.cells)

    @property
    def transfers(self) -> tuple[Cell, ...]:
        """The cells of a model's examples before another model."""
        return tuple(cell for row in self.models for cell in row.cells if cell is not None and not cell.is_self)

    @property
    def own(self) -> tuple[Cell, ...]:
        """The cells of a model's examples before the model itself."""
        return tuple(cell for row in self.models for cell in row.cells if cell is not None and cell.is_self)

    @property
    def noise(self) -> Row | None:
        """The first Gaussian noise among the controls."""
        return next((row for row in self.controls if row.source.startswith("gaussian-")), None)


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A row of Table 1, ours and (``paper``) the paper's; None where a number is unknown."""

    name: str
    fingerprint: str
    train_error: float | None
    test_error: float | None
    iterations: int | None
    mean_rms: float | None
    paper: paper_numbers.PaperModel | None


def conditional(cells: Iterable[Cell | None]) -> list[float]:
    """The rates among images classified correctly when clean, of the targets that have any."""
    rates = (None if cell is None else cell.conditional_error_rate for cell in cells)
    return [rate for rate in rates if rate is not None]


def headline(matrix: Matrix) -> dict[str, Any]:
    """The finding, and the mean over pairs of different models of the rates it is about."""
    found: dict[str, Any] = {"finding": finding(matrix)}
    if rates := conditional(matrix.transfers):
        found["conditional_error_rate"] = fmean(rates)
    if matrix.transfers:
        found["error_rate"] = fmean(cell.error_rate for cell in matrix.transfers)
    return found


def finding(matrix: Matrix) -> str:
    """The study in a sentence: what the attack adds to the errors that each model makes on clean images anyway."""
    cells = matrix.transfers or matrix.own
    rates = conditional(cells)
    if not cells:
        return "The study holds no attacked examples yet."
    if not rates:
        return "No model classifies any of the clean images correctly, so that nothing can be said of the attack."
    mean, noted = percent(fmean(rates)), []
    if matrix.transfers:
        text = f"An example made to fool one model is misclassified by another {mean}% of the time {AMONG}"
        noted.append("1 pair" if len(rates) == 1 else f"{span(min(rates), max(rates))}, {len(rates)} pairs")
    else:
        text = f"The model misclassifies {mean}% of the examples made to fool it, {AMONG}"
    distortions = [row.mean_rms for row in matrix.models if row.mean_rms is not None]
    if distortions:
        low, high = (f"{size:.3f}" for size in (min(distortions), max(distortions)))
        noted.append(f"mean distortion {low if low == high else f'{low} to {high}'} RMS")
    text += f" ({'; '.join(noted)})" if noted else ""
    if matrix.noise is not None and (rates := conditional(matrix.noise.cells)):
        text += f"; {describe(matrix.noise.source)}: {percent(fmean(rates))}%"
    return f"{text}."


def short(name: str) -> str:
    """A model's or control's name for a heading: ``python:a.b.efficientnet:lite0`` is ``efficientnet:lite0``."""
    return re.sub(r"(?:python:(?:\w+\.)*|file:(?:.*/)?)([^/:]+?)(?:\.py)?:(\w+)", r"\1:\2", name)
