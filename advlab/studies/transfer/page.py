"""One self-contained page per study: no network, every figure a data URI, everything escaped."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from advlab.report.numbers import percent, rms, span
from advlab.report.palette import heat
from advlab.studies.transfer import figures
from advlab.studies.transfer.paper_numbers import as_printed
from advlab.studies.transfer.results import TransferStudy
from advlab.studies.transfer.summary import Cell, Matrix, finding, read_matrix, read_models
from advlab.text import masked, masked_values, printable
from advlab.transfer.controls import describe

_PROVENANCE = ("started", "finished", "hosts", "revision", "identity")

_QUERY = """\
SELECT source, target, count(*) AS n,
       avg((prediction <> label)::INT) AS error_rate,
       avg((prediction <> label)::INT) FILTER (clean_prediction = label) AS conditional_error_rate,
       avg(rms) AS mean_rms
FROM read_parquet('predictions/*/*/*.parquet', hive_partitioning = true)
GROUP BY ALL ORDER BY ALL;"""


def page(
    study: TransferStudy, images: Mapping[str, bytes] | None = None, panels: Mapping[str, bytes] | None = None
) -> str:
    """The study's report as one HTML document.

    Args:
        study: a study with its matrix and examples written.
        images: figures already drawn, as `figures.draw` names them.
        panels: those of Figure 7 already drawn, by source.
    """
    drawn = figures.draw(study) if images is None else images
    matrix = read_matrix(study)
    manifest = study.manifest
    dataset = manifest["dataset"]
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            title=f"Transfer of adversarial examples on {dataset['name']} {dataset['split']}",
            finding=finding(matrix),
            facts=_facts(matrix),
            matrix=matrix,
            models=read_models(study),
            histograms=_picture(
                drawn["distortion_histograms"],
                "Histograms of the distortion of each model's examples; the models table gives their means.",
                "How far an image must move to fool its model. Bold lines mark medians.",
            ),
            curves=_picture(
                drawn["distortion_curves"],
                "Share of each model's examples that fool it, against the distortion allowed.",
                "Share of a model's examples that fool it within a given distortion.",
            ),
            panels=_panels(study, figures.panels(study) if panels is None else panels),
            command=study.command_in("OUT"),
            settings=_settings(manifest),
            query=_QUERY,
            manifest=manifest,
        )
    )


def _environment() -> Environment:
    loader = PackageLoader("advlab.studies.transfer", ".")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    filters = {"percent": percent, "as_printed": as_printed, "rms": rms, "describe": describe}
    environment.filters |= {**filters, "heat": _heat_style, "details": _details}
    environment.globals["heat_colour"] = lambda rate: heat(rate)[0]
    return environment


def _heat_style(cell: Cell) -> Markup:
    background, ink = heat(cell.error_rate)
    return Markup(f"background:{background};color:{ink}")  # two hex colours of our own palette


def _details(cell: Cell) -> str:
    """What pointing at a cell tells, one fact a line."""
    lines = [
        f"Made for {cell.source}, shown to {cell.target}",
        f"{percent(cell.error_rate)}% of {cell.n:,} misread",
        f"Wilson 95% interval {span(cell.ci_low, cell.ci_high)}",
    ]
    if cell.conditional_error_rate is not None:
        lines.append(f"{percent(cell.conditional_error_rate)}% of those it reads rightly when clean")
    if cell.same_mistake_rate is not None:
        lines.append(f"{percent(cell.same_mistake_rate)}% the same mistake as {cell.source}'s")
    if cell.paper is not None:
        lines.append(f"The paper: {as_printed(cell.paper)}%")
    return "\n".join(lines)


def _facts(matrix: Matrix) -> list[tuple[str, str]]:
    counts = sorted({cell.n for row in matrix.models for cell in row.cells if cell is not None})
    facts = [(str(len(matrix.models)), "model attacked" if len(matrix.models) == 1 else "models attacked")]
    if counts:
        facts.append((f"{counts[-1]:,}", "examples of each"))
    if matrix.transfers:
        facts.append((f"{percent(fmean(cell.error_rate for cell in matrix.transfers))}%", "mean transfer"))
    if matrix.own:
        facts.append((f"{percent(fmean(cell.error_rate for cell in matrix.own))}%", "misread by their own model"))
    return facts


def _panels(study: TransferStudy, panels: Mapping[str, bytes]) -> list[dict[str, str]]:
    shown = []
    for source, png in panels.items():
        noun = describe(source) if study.is_control(source) else f"the attack on {source}"
        shown.append(_picture(png, f"Pairs of images: the original, then the same image distorted by {noun}."))
    return shown


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


def _picture(png: bytes, alt: str, caption: str = "") -> dict[str, str]:
    """A figure as the page shows it."""
    return {"src": f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}", "alt": alt, "caption": caption}
