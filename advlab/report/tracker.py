"""Weights & Biases, kept at arm's length: it can never stop, hang or change a study."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from advlab.errors import UserError
from advlab.report import figures
from advlab.report.summary import finding, read_matrix

if TYPE_CHECKING:
    from advlab.results import Study

Mode = Literal["online", "offline", "disabled"]
MODES: tuple[str, ...] = get_args(Mode)

_log = logging.getLogger(__name__)


class Tracker:
    """One W&B run of a study; all runs of a study (its resumptions) share a group.

    ``disabled`` never imports wandb. ``online`` becomes ``offline`` after one warning when there is no API
    key or no server answers in time, so that ``wandb sync`` can still send the run. Any later error of wandb is
    logged once and ends the tracking, never the study.

    Args:
        mode: ``online``, ``offline`` or ``disabled``.
        identity: the study's hash; its first 12 digits name the group.
        config: what W&B shows as the run's config.
        out: where the study lies. A local directory gets the run files in ``out/wandb``, any other URI leaves
            them in a temporary directory.
        project: the W&B project.
        timeout: seconds to wait for the server, at the start and again at the end.

    Raises:
        UserError: an unknown mode.
    """

    def __init__(
        self,
        mode: str,
        *,
        identity: str,
        config: Mapping[str, Any],
        out: str,
        project: str = "advlab",
        timeout: float = 20.0,
    ) -> None:
        if mode not in MODES:
            raise UserError(f"unknown W&B mode {mode!r}; choose one of {', '.join(MODES)}.")
        self.mode = mode
        self._out = None if "://" in out else Path(out)
        self._uri = out
        self._identity = identity
        self._run: Any = None
        if mode == "disabled":
            return
        directory = self._out or Path(tempfile.mkdtemp(prefix="advlab-wandb-"))
        start = partial(_start, identity[:12], dict(config), directory, project, timeout)
        self._run = self._attempt("start", lambda: start(mode))
        if self._run is None and mode == "online":
            self.mode = "offline"
            self._run = self._attempt("start offline", lambda: start("offline"))
        if self._run is None:
            self.mode = "disabled"
        else:
            _log.info("W&B %s run in %s", self.mode, directory / "wandb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish(failed=kind is not None)

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Log progress: numbers by name, against ``step`` when given."""
        self._use("log", lambda run: run.log(dict(values), step=step))

    def record(self, study: Study) -> None:
        """Log the finished study: matrix, heat map, example images, and its files as an artifact."""
        self._use("record the study", lambda run: self._record(run, study))

    def finish(self, *, failed: bool = False) -> None:
        """End the run, waiting no longer than the timeout for the server; harmless when there is none."""
        self._use("finish", lambda run: run.finish(exit_code=int(failed)))
        self._run = None

    def _record(self, run: Any, study: Study) -> None:
        import wandb

        table = study.matrix()
        matrix = read_matrix(study)
        images = {
            f"examples/{source}": wandb.Image(_picture(figures.figure_7(study, [source])))
            for source in figures.figure_7_sources(matrix)
        }
        run.log(
            {
                "matrix": wandb.Table(
                    columns=table.column_names, data=[list(record.values()) for record in table.to_pylist()]
                ),
                "matrix_heat_map": wandb.Image(_picture(figures.matrix_heat_map(study))),
                **images,
            }
        )
        run.summary["finding"] = finding(matrix)
        artifact = wandb.Artifact(f"{study.manifest['kind']}-{self._identity[:12]}", type="study")
        if self._out is None:
            # Without a checksum the reference is stored as it is and needs no client of the object store.
            artifact.add_reference(self._uri, name="study", checksum=False)
        else:
            for path in _study_files(self._out):
                # The files outlive the run where they are, so a second copy in W&B's cache is a waste.
                artifact.add_file(
                    str(path),
                    name=path.relative_to(self._out).as_posix(),
                    policy="immutable",
                    skip_cache=True,
                )
        run.log_artifact(artifact)

    def _use(self, verb: str, act: Callable[[Any], Any]) -> None:
        """Do something with the run, if there is one; after an error there is none."""
        run = self._run
        if run is not None and self._attempt(verb, lambda: (act(run),)) is None:
            self._run = None

    def _attempt(self, verb: str, act: Callable[[], Any]) -> Any:
        """The result of ``act``, or None and one warning whatever went wrong in it."""
        try:
            return act()
        except Exception as error:  # a tracker's failure of any kind must not end a study
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            _log.warning("W&B could not %s (%s); the study goes on without it.", verb, reason)
            return None


def _start(group: str, config: dict[str, Any], directory: Path, project: str, timeout: float, mode: Any) -> Any:
    import wandb

    directory.mkdir(parents=True, exist_ok=True)
    return wandb.init(
        project=project,
        group=group,
        config=config,
        dir=str(directory),
        mode=mode,
        # Standard output belongs to the command, and its source to git.
        settings=wandb.Settings(console="off", silent=True, disable_code=True, disable_job_creation=True, **limits),
    )


def _study_files(out: Path) -> list[Path]:
    """The study's manifest and Parquet files, none of W&B's own."""
    return sorted([out / "study.json", *(path for path in out.rglob("*.parquet") if "wandb" not in path.parts)])
