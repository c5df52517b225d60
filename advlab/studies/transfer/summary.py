"""What a report says about a transfer study: the same for the terminal, the page, the figures and W&B."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from advlab.report.numbers import percent, span
from advlab.studies.transfer import paper_numbers
from advlab.studies.transfer.results import TransferStudy
from advlab.transfer.controls import describe


@dataclass(frozen=True, slots=True)
class Cell:
    """One target's answers to one source's examples; rates are fractions, None where they are undefined.

    Attributes:
        source: the model the examples were made for, or a control.
        target: the model that was shown them.
        n: number of examples.
        error_rate: share misread by the target.
        ci_low: lower end of the Wilson 95% interval of ``error_rate``.
        ci_high: its upper end.
        conditional_error_rate: share misread among the examples the target reads correctly clean.
        same_mistake_rate: share misread as the very class the attacked model sees in them.
        paper: the paper's error rate, or None.
    """

    source: str
    target: str
    n: int
    error_rate: float
    ci_low: float
    ci_high: float
    conditional_error_rate: float | None
    same_mistake_rate: float | None
    paper: float | None

    @property
    def is_self(self) -> bool:
        """Whether the examples were made for this very target."""
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
    """The matrix in display order: models first, then controls."""

    targets: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def models(self) -> tuple[Row, ...]:
        """The rows of attacked models."""
        return tuple(row for row in self.rows if not row.is_control)

    @property
    def controls(self) -> tuple[Row, ...]:
        """The rows of noise and shuffled perturbations."""
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


def read_matrix(study: TransferStudy) -> Matrix:
    """The study's matrix with the paper's numbers where they are about the same data set."""
    by_pair = {(record["source"], record["target"]): record for record in study.matrix().to_pylist()}
    compared = _is_compared(study)
    targets = tuple(study.targets)
    rows = []
    for source in sorted(study.sources, key=study.is_control):
        cells = tuple(_cell(by_pair.get((source, target)), compared) for target in targets)
        distortions = [by_pair[source, target]["mean_rms"] for target in targets if (source, target) in by_pair]
        ours, theirs = next(map(_number, distortions), None), paper_numbers.distortion(source) if compared else None
        rows.append(Row(source, study.is_control(source), ours, theirs, cells))
    return Matrix(targets, tuple(rows))


def read_models(study: TransferStudy) -> list[ModelRow]:
    """The study's models in display order, with their errors and the mean distortion of their examples."""
    distortion = {row.source: row.mean_rms for row in read_matrix(study).rows}
    compared = _is_compared(study)
    rows = []
    for name in study.targets:
        entry = study.manifest["models"].get(name, {})
        report = entry.get("report") or {}
        rows.append(
            ModelRow(
                name=name,
                fingerprint=entry.get("fingerprint", ""),
                train_error=_number(report.get("train_error")),
                test_error=_number(report.get("test_error")),
                iterations=report.get("iterations"),
                mean_rms=distortion.get(name),
                paper=paper_numbers.TABLE_1.get(name) if compared else None,
            )
        )
    return rows


def finding(matrix: Matrix) -> str:
    """The study in one or two sentences, from its numbers."""
    transfers = matrix.transfers
    if transfers:
        rates = [cell.error_rate for cell in transfers]
        pairs = "1 pair" if len(rates) == 1 else f"{len(rates)} pairs"
        spread = "" if len(rates) == 1 else f" ({span(min(rates), max(rates))}, {pairs})"
        text = f"An example made to fool one model fools another {percent(fmean(rates))}% of the time{spread}"
    else:
        if not matrix.own:
            return "The study holds no attacked examples yet."
        own = fmean(cell.error_rate for cell in matrix.own)
        text = f"The model misreads {percent(own)}% of the examples made to fool it"
    distortions = [row.mean_rms for row in matrix.models if row.mean_rms is not None]
    if distortions:
        low, high = min(distortions), max(distortions)
        between = f"{low:.3f}" if f"{low:.3f}" == f"{high:.3f}" else f"{low:.3f} to {high:.3f}"
        text += f", at a mean distortion of {between} RMS"
    for row in matrix.controls:
        rates = [cell.error_rate for cell in row.cells if cell is not None]
        if rates and row.source.startswith("gaussian-"):
            return f"{text}. {describe(row.source)} fools them {percent(fmean(rates))}% of the time."
    return f"{text}."


def short(name: str) -> str:
    """A model's or control's name for a heading: ``python:a.b.efficientnet:lite0`` is ``efficientnet:lite0``."""
    return re.sub(r"(?:python:(?:\w+\.)*|file:(?:.*/)?)([^/:]+?)(?:\.py)?:(\w+)", r"\1:\2", name)


def _is_compared(study: TransferStudy) -> bool:
    return bool(study.manifest["dataset"]["name"] == paper_numbers.DATASET)


def _cell(record: dict[str, Any] | None, compared: bool) -> Cell | None:
    if record is None:
        return None
    known = {name: record[name] for name in ("source", "target", "n", "error_rate", "ci_low", "ci_high")}
    known |= {name: _number(record[name]) for name in ("conditional_error_rate", "same_mistake_rate")}
    return Cell(**known, paper=paper_numbers.error_rate(record["source"], record["target"]) if compared else None)


def _number(value: float | None) -> float | None:
    """Null and NaN both mean "no such rate": Parquet writers differ in which they keep."""
    return None if value is None or math.isnan(value) else value
