"""One self-contained page per study: no network, every figure a data URI, everything escaped."""

import base64
import json
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from advlab.report.numbers import percent, rms, span
from advlab.report.palette import heat
from advlab.studies.transfer.paper_numbers import as_printed
from advlab.studies.transfer.summary import AMONG, CLEAN, Cell, Matrix, conditional, finding
from advlab.studies.transfer.view import View
from advlab.text import masked, masked_values, printable
from advlab.transfer.controls import describe

_PROVENANCE = ("started", "finished", "hosts", "revision", "identity")

_SHOWN = (
    ("error", "error_rate", "error", "the share misclassified, in per cent, with its Wilson 95% interval"),
    (
        "conditional",
        "conditional_error_rate",
        "error where the clean image is classified correctly",
        "the share misclassified among the images that the column’s model classifies correctly when clean",
    ),
    (
        "same",
        "same_mistake_rate",
        "same mistake",
        "the share misclassified as the very class that the row’s model sees in the example",
    ),
)
"""What a cell of the matrix can show: the name, the rate, the label of the choice, and what it means."""


def page(view: View, images: Mapping[str, bytes], panels: Mapping[str, bytes]) -> str:
    """The study's report as one HTML document, with its figures and the panels of Figure 7 from `figures.draw`."""
    study, matrix = view.study, view.matrix
    dataset = study.manifest["dataset"]
    environment = Environment(
        loader=PackageLoader("advlab.studies.transfer", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = {"percent": percent, "as_printed": as_printed, "rms": rms, "describe": describe}
    environment.filters |= {**filters, "heat": _heat_style, "details": _details}
    environment.globals["heat_colour"] = lambda rate: heat(rate)[0]
    return environment.get_template("report.html.jinja").render(
        title=f"Transfer of adversarial examples on {dataset['name']} {dataset['split']}",
        finding=finding(matrix),
        facts=_facts(matrix),
        matrix=matrix,
        shown=_SHOWN,
        models=view.models,
        histograms=_picture(images["distortion_histograms"]),
        curves=_picture(images["distortion_curves"]),
        panels=[
            (_picture(png), describe(source) if study.is_control(source) else f"the attack on {source}")
            for source, png in panels.items()
        ],
        command=study.command_in("OUT"),
        settings=_settings(study.manifest),
    )


def _heat_style(cell: Cell) -> Markup:
    """The colours of a cell for each rate that it can show; a rate that it lacks has none."""
    rates = ((name, getattr(cell, rate)) for name, rate, *_ in _SHOWN)
    colours = {name: heat(rate) for name, rate in rates if rate is not None}
    # names and hex colours of our own
    return Markup(";".join(f"--{name}:{back};--{name}-ink:{ink}" for name, (back, ink) in colours.items()))


def _details(cell: Cell) -> str:
    """What pointing at a cell tells, one fact a line."""
    lines = [
        f"{'Clean images' if cell.source == CLEAN else f'Made for {cell.source}'}, shown to {cell.target}",
        f"{percent(cell.error_rate)}% of {cell.n:,} misclassified",
        f"Wilson 95% interval {span(cell.ci_low, cell.ci_high)}",
    ]
    if cell.conditional_error_rate is not None:
        lines.append(f"{percent(cell.conditional_error_rate)}% of those that it classifies correctly when clean")
    if cell.same_mistake_rate is not None:
        lines.append(f"{percent(cell.same_mistake_rate)}% misclassified as {cell.source} misclassifies them")
    if cell.paper is not None:
        lines.append(f"The paper: {as_printed(cell.paper)}%")
    return "\n".join(lines)


def _facts(matrix: Matrix) -> list[tuple[str, str]]:
    counts = sorted({cell.n for row in matrix.models for cell in row.cells if cell is not None})
    among: list[tuple[str, Sequence[Cell | None]]] = [(f"misclassified by another model {AMONG}", matrix.transfers)]
    if matrix.noise:
        among.append((f"the same for {describe(matrix.noise.source)}", matrix.noise.cells))
    among.append(("the same for their own model", matrix.own))
    facts = [(f"{percent(fmean(rates))}%", name) for name, cells in among if (rates := conditional(cells))]
    if matrix.transfers:
        every = fmean(cell.error_rate for cell in matrix.transfers)
        facts.append((f"{percent(every)}%", "misclassified by another model among all images"))
    facts.append((str(len(matrix.models)), "model attacked" if len(matrix.models) == 1 else "models attacked"))
    if counts:
        facts.append((f"{counts[-1]:,}", "examples of each"))
    return facts


def _settings(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Provenance as name and value, config first; nested values as JSON."""
    rows = [(key, masked(_plain(value))) for key, value in masked_values(manifest["config"]).items()]
    rows += [(key, _plain(manifest.get(key))) for key in _PROVENANCE]
    rows.append(("data SHA-256", _plain(manifest["dataset"].get("fingerprint"))))
    rows += [(f"version: {name}", _plain(version)) for name, version in manifest.get("versions", {}).items()]
    return [(printable(name), printable(value, 2000)) for name, value in rows]


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, list | tuple) and all(isinstance(item, str | int | float) for item in value):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _picture(png: bytes) -> str:
    """A figure as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
