"""What a study looks like: tables, figures, one self-contained page, and W&B."""

from __future__ import annotations

from rich.console import Console

from advlab.errors import UserError
from advlab.report import figures, html, tables
from advlab.report.tracker import Mode, Tracker
from advlab.results import Study
from advlab.results.layout import MATRIX

__all__ = ["Mode", "Tracker", "print_study", "render"]


def require_finished(study: Study) -> None:
    """Raise a UserError when a study has no matrix yet, or nothing is known of what it was made from."""
    if not study.store.exists(MATRIX) or {"name", "split"} - study.manifest.get("dataset", {}).keys():
        raise UserError(f"{study.store.uri!r} has no matrix yet; run the study to its end first.")
    if lacking := [name for name in study.targets if name not in study.fingerprints]:
        raise UserError(f"the study.json of {study.store.uri!r} says nothing of the model {lacking[0]!r}; verify it.")


def render(study: Study) -> list[str]:
    """Write ``figures/*.png`` and ``report.html`` into the study.

    Args:
        study: a study with its matrix, examples and predictions written.

    Returns:
        The files written, relative to the study.
    """
    images = figures.draw(study)
    files = {f"figures/{name}.png": png for name, png in images.items()}
    files["report.html"] = html.page(study, images).encode()
    for path, content in files.items():
        study.store.write_bytes(path, content)
    return list(files)


def print_study(study: Study, console: Console) -> None:
    """Print the models and the matrix, the paper's numbers beside them, to fit the console's width."""
    console.print(tables.models_table(study))
    for table in tables.matrix_tables(study, console.width):
        console.print(table)
