"""The presentation of a transfer study: terminal, figures, page, W&B."""

from rich.console import Console
from rich.text import Text

from advlab.errors import UserError
from advlab.report import Shown
from advlab.studies.transfer import figures, page, tables
from advlab.studies.transfer.layout import MATRIX
from advlab.studies.transfer.results import TransferStudy
from advlab.studies.transfer.summary import finding, headline
from advlab.studies.transfer.view import View


def show(view: View, width: int) -> Shown:
    """The presentation of a study; a UserError if it has no matrix yet, or lacks settings."""
    require_finished(view.study)
    images, panels = figures.draw(view)
    drawn = {f"figures/{name}.png": png for name, png in images.items()}
    return Shown(
        tables=[Text(finding(view.matrix)), tables.models_table(view), *tables.matrix_tables(view, width)],
        files={**drawn, "report.html": page.page(view, images, panels).encode()},
        pictures={"matrix_heat_map": images["matrix"], **{f"examples/{name}": png for name, png in panels.items()}},
        rows={"matrix": view.table},
        summary=headline(view.matrix),
    )


def require_finished(study: TransferStudy) -> None:
    """Raise a UserError if a study has no matrix yet, or no record of its models."""
    study.require_settings()
    if not study.store.exists(MATRIX) or {"name", "split"} - study.manifest.get("dataset", {}).keys():
        raise UserError(f"{study.store.uri!r} has no matrix yet; finish the study first.")
    if lacking := [name for name in study.targets if name not in study.fingerprints]:
        raise UserError(f"the study.json of {study.store.uri!r} does not mention the model {lacking[0]!r}; verify it.")


def render(study: TransferStudy) -> list[str]:
    """Write ``figures/*.png`` and ``report.html`` into a finished study; returns the files, relative to it."""
    files = show(View(study), width=100).files
    for path, content in files.items():
        study.store.write_bytes(path, content)
    return list(files)


def print_study(study: TransferStudy, console: Console) -> None:
    """Print the finding, the models and the matrix, to fit the console's width."""
    view = View(study)
    for table in (Text(finding(view.matrix)), tables.models_table(view), *tables.matrix_tables(view, console.width)):
        console.print(table)
