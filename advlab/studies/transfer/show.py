"""How a transfer study is shown: terminal, figures, page, W&B."""

from __future__ import annotations

from rich.console import Console

from advlab.errors import UserError
from advlab.report import Shown
from advlab.studies.transfer import figures, page, tables
from advlab.studies.transfer.layout import MATRIX
from advlab.studies.transfer.results import TransferStudy
from advlab.studies.transfer.summary import finding, read_matrix


def show(study: TransferStudy, width: int) -> Shown:
    """All of it.

    Raises:
        UserError: the study has no matrix yet, or lacks settings.
    """
    require_finished(study)
    images, panels = figures.draw(study), figures.panels(study)
    return Shown(
        tables=[tables.models_table(study), *tables.matrix_tables(study, width)],
        files=_files(study, images, panels),
        pictures={"matrix_heat_map": images["matrix"], **{f"examples/{name}": png for name, png in panels.items()}},
        rows={"matrix": study.matrix()},
        summary={"finding": finding(read_matrix(study))},
    )


def require_finished(study: TransferStudy) -> None:
    """Raise a UserError when a study has no matrix yet, or nothing is known of what it was made from."""
    study.require_settings()
    if not study.store.exists(MATRIX) or {"name", "split"} - study.manifest.get("dataset", {}).keys():
        raise UserError(f"{study.store.uri!r} has no matrix yet; run the study to its end first.")
    if lacking := [name for name in study.targets if name not in study.fingerprints]:
        raise UserError(f"the study.json of {study.store.uri!r} says nothing of the model {lacking[0]!r}; verify it.")


def render(study: TransferStudy) -> list[str]:
    """Write ``figures/*.png`` and ``report.html`` into the study.

    Args:
        study: a study with its matrix, examples and predictions written.

    Returns:
        The files written, relative to the study.
    """
    files = _files(study, figures.draw(study), figures.panels(study))
    for path, content in files.items():
        study.store.write_bytes(path, content)
    return list(files)


def _files(study: TransferStudy, images: dict[str, bytes], panels: dict[str, bytes]) -> dict[str, bytes]:
    drawn = {f"figures/{name}.png": png for name, png in images.items()}
    return {**drawn, "report.html": page.page(study, images, panels).encode()}


def print_study(study: TransferStudy, console: Console) -> None:
    """Print the models and the matrix, the paper's numbers beside them, to fit the console's width."""
    for table in [tables.models_table(study), *tables.matrix_tables(study, console.width)]:
        console.print(table)
