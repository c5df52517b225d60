"""The journal of a sweep over architectures: rows, progress and errors while Tune runs it."""

from pathlib import Path
from typing import Any

from advlab.engine.progress import OnProgress, Stage
from advlab.engine.session import host_count
from advlab.errors import UserError
from advlab.models.study_models import read_model
from advlab.store import Study
from advlab.studies.architectures import trials
from advlab.studies.architectures.plan import ArchitecturesPlan
from advlab.studies.architectures.space import Point
from advlab.studies.architectures.trials import FAILED, FINISHED, STOPPED
from advlab.studies.architectures.work import PERCENT


class Journal:
    """The rows of a sweep, written whenever one is added."""

    def __init__(self, plan: ArchitecturesPlan, study: Study, on_progress: OnProgress) -> None:
        self.plan, self.study, self.on_progress = plan, study, on_progress
        self._rows = {row["trial"]: row for row in trials.read(study.store)}
        self.stage: Stage | None = None
        self._adopt_models_without_a_row()

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All rows, by architecture, weight decay and seed."""
        place = {name: position for position, name in enumerate(self.plan.space.architectures)}
        rows = self._rows.values()
        return sorted(rows, key=lambda row: (place[row["architecture"]], row["weight_decay"], row["seed"]))

    @property
    def done(self) -> int:
        return sum(row["status"] != FAILED for row in self._rows.values())

    def not_done(self) -> list[Point]:
        """Points without a result: those of the plan, or, with Optuna, those that failed."""
        if self.plan.points is None:
            return [point_of(row) for row in self.rows if row["status"] == FAILED]
        return [point for point in self.plan.points if self._rows.get(point.name, {}).get("status", FAILED) == FAILED]

    def forget_lost(self) -> list[Point]:
        """Remove finished trials whose model is missing, and return their points."""
        held = set(self.study.store.files("models"))
        lost = [row for row in self.rows if row["status"] == FINISHED and row["checkpoint"] not in held]
        for row in lost:
            del self._rows[row["trial"]]
        return [point_of(row) for row in lost]

    def heard(self, trial: Any, result: dict[str, Any]) -> None:
        """Handle a report of a trial; the last one is its row."""
        name = Point(**trial.config["point"]).name
        if "fingerprint" not in result:
            if PERCENT in result and self.stage is not None:
                status = f"{result[PERCENT]}%, validation error {100 * result['validation_error']:.2f}%"
                self.stage.say(f"{name}: {status}")
            return
        row = {column: result.get(column) for column in trials.SCHEMA.names} | {"trial_id": trial.trial_id}
        self._add(row)
        self.on_progress({key: row[key] for key in ("validation_error", "mean_rms")} | {"trials": self.done})

    def ended(self, trial: Any, failed: bool) -> None:
        """Handle the end of a trial; without a row by now, it gets one."""
        point, result = Point(**trial.config["point"]), trial.last_result or {}
        if self._rows.get(point.name, {}).get("status") == FINISHED:
            return
        row = {"trial": point.name, "status": FAILED if failed else STOPPED, "trial_id": trial.trial_id}
        row |= {"architecture": point.architecture, "weight_decay": list(point.decays), "seed": point.seed}
        row |= {key: result.get(key) for key in ("validation_error", PERCENT)}
        self._add(row | {"reason": _reason(trial) if failed else None})

    def conclude(self) -> None:
        """Record that the sweep is finished; a UserError if trials failed."""
        failed = [row for row in self.rows if row["status"] == FAILED]
        if failed:
            raise UserError(
                f"{len(failed)} of {self.plan.total} trials failed, the first being {failed[0]['trial']!r} "
                f"({failed[0]['reason']}); the finished ones are kept in {self.study.store.uri!r}: run the same "
                "command again once the cause is gone."
            )
        if self.study.manifest["finished"] is None:
            self._write()
            for row in self.rows:
                if row["status"] == FINISHED:
                    self.study.record_model(row["trial"], row["fingerprint"])
            self.study.finish(host_count())

    def _adopt_models_without_a_row(self) -> None:
        """Add rows for models whose driver was killed before it wrote them."""
        known = {row.get("checkpoint") for row in self._rows.values()}
        for file in self.study.store.files("models", suffix=".safetensors"):
            if file not in known:
                try:
                    row = trials.row(read_model(self.study.store, file))
                except ValueError:  # incomplete: its trial is repeated
                    continue
                self._rows[row["trial"]] = row

    def _add(self, row: dict[str, Any]) -> None:
        is_new = self._rows.get(row["trial"], {}).get("status", FAILED) == FAILED
        self._rows[row["trial"]] = row
        self._write()
        if self.stage is not None and is_new and row["status"] != FAILED:
            self.stage.advance(row["trial"])

    def _write(self) -> None:
        trials.write(self.study.store, self.rows)


def point_of(row: dict[str, Any]) -> Point:
    return Point(row["architecture"], tuple(row["weight_decay"]), row["seed"])


def _reason(trial: Any) -> str:
    """The last line of a trial's error; until Tune has copied the error file, it is in Tune's working folder."""
    text = Path(trial.error_file).read_text() if trial.error_file else ""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip().rstrip(".") if lines else "its worker was lost"
