"""Tracking by Weights & Biases that can never stop, hang or change a study."""

import io
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, get_args

from advlab.errors import UserError
from advlab.report.shown import Shown
from advlab.store import Study
from advlab.text import masked_values

Mode = Literal["online", "offline", "disabled"]
MODES: tuple[str, ...] = get_args(Mode)

_log = logging.getLogger(__name__)


class Tracker:
    """One W&B run of a study; all runs of a study (its resumptions) share a group.

    ``disabled`` never imports wandb. ``online`` becomes ``offline``, with a warning, if there is no API key or no
    server answers in time; ``wandb sync`` can then send the run later. Any later error of wandb is logged once and ends
    the tracking, never the study.

    Args:
        identity: the study's hash; its first 12 digits name the group.
        out: the study's folder. Run files are in ``out/wandb`` if that is local and not a link, else in a temporary
            directory. A UserError if W&B would read its settings there.
        timeout: seconds to wait for the server, at the start and again at the end.
    """

    def __init__(
        self,
        mode: str,
        *,
        identity: str,
        config: Mapping[str, Any],
        out: str,
        timeout: float = 20.0,
    ) -> None:
        if mode not in MODES:
            raise UserError(f"unknown W&B mode {mode!r}; choose one of {', '.join(MODES)}.")
        self.mode = mode
        self._run: Any = None
        if mode == "disabled":
            return
        directory = _directory(out)
        start = partial(_start, identity[:12], masked_values(config), directory, timeout)
        self._run = self._attempt("start", lambda: start(mode))
        if self._run is None and mode == "online":
            self.mode = "offline"
            self._run = self._attempt("start offline", lambda: start("offline"))
        if self._run is None:
            self.mode = "disabled"
        else:
            _log.info("W&B %s run in %s", self.mode, directory / "wandb")

    @classmethod
    def of(cls, study: Study, mode: str) -> Self:
        """The run of a study, with run files in its folder."""
        return cls(mode, identity=study.manifest["identity"], config=study.config, out=study.store.uri)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.finish(failed=kind is not None)

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Log progress: numbers by name, against ``step`` when given."""
        self._use("log", lambda run: run.log(dict(values), step=step))

    def record(self, study: Study, shown: Shown) -> None:
        """Log the finished study: its tables, figures and summary, and its files as an artifact.

        The artifact of a study on an object store only holds ``study.json``, these tables, and its URI.
        """
        self._use("record the study", lambda run: self._record(run, study, shown))

    def finish(self, *, failed: bool = False) -> None:
        """End the run, waiting for the server no longer than the timeout; does nothing if there is no run."""
        self._use("finish", lambda run: run.finish(exit_code=int(failed)))
        self._run = None

    def _record(self, run: Any, study: Study, shown: Shown) -> None:
        import wandb
        from PIL import Image

        tables = {
            name: wandb.Table(columns=table.column_names, data=[list(row.values()) for row in table.to_pylist()])
            for name, table in shown.rows.items()
        }
        drawn = shown.pictures or {n.removesuffix(".png"): png for n, png in shown.files.items() if n.endswith(".png")}
        pictures = {name: wandb.Image(Image.open(io.BytesIO(png))) for name, png in drawn.items()}
        if tables or pictures:
            run.log({**tables, **pictures})
        run.summary.update(masked_values(dict(shown.summary)))
        name = f"{study.manifest['kind']}-{study.manifest['identity'][:12]}"
        artifact = wandb.Artifact(name, type="study", metadata={"uri": study.store.uri})
        if study.store.is_local:
            for file in ["study.json", *study.store.files(suffix=".parquet")]:
                # The files stay where they are after the run, so W&B's cache needs no copy.
                artifact.add_file(study.store.path(file), name=file, policy="immutable", skip_cache=True)
        else:
            for file in ["study.json", *(f"{table}.parquet" for table in shown.rows)]:
                with artifact.new_file(file, mode="wb") as copy:
                    copy.write(study.store.read_bytes(file))
        run.log_artifact(artifact)

    def _use(self, verb: str, act: Callable[[Any], Any]) -> None:
        """Use the run, if there is one; an error ends the tracking."""
        run = self._run
        if run is not None and self._attempt(verb, lambda: (act(run),)) is None:
            self._run = None

    def _attempt(self, verb: str, act: Callable[[], Any]) -> Any:
        """The result of ``act``, or None and one warning after any error."""
        try:
            return act()
        except Exception as error:  # no failure of tracking may end a study
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            _log.warning("W&B could not %s (%s); the study continues without it.", verb, reason)
            return None


def _directory(out: str) -> Path:
    """The folder of run files, which W&B takes with all links in it; the study's own may be a stranger's."""
    study = Path(out).expanduser().resolve()
    for name in ("wandb", ".wandb"):
        if (settings := Path.cwd() / name / "settings").exists() and settings.is_relative_to(study):
            raise UserError(
                f"W&B would take its server, and send your key there, from {str(settings)!r} in the study's folder; "
                "start the command in another folder, or remove that file."
            )
    is_elsewhere = "://" in out or any((study / name).is_symlink() for name in ("wandb", ".wandb"))
    return Path(tempfile.mkdtemp(prefix="advlab-wandb-")) if is_elsewhere else study


def _start(group: str, config: dict[str, Any], directory: Path, timeout: float, mode: Any) -> Any:
    # W&B's own telemetry uses the same server and, if that does not answer, delays the end of the process.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    directory.mkdir(parents=True, exist_ok=True)
    return wandb.init(
        project="advlab",
        group=group,
        config=config,
        dir=str(directory),
        mode=mode,
        # Standard output belongs to the command, and source code to git.
        settings=wandb.Settings(
            console="off",
            silent=True,
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            x_disable_meta=True,  # it would record the command line unmasked
            init_timeout=timeout,
            login_timeout=timeout,
            finish_timeout=timeout,
        ),
    )
