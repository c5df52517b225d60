"""A QuocNet run: its checks and its launch on Ray Train or in this process."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from advlab.analysis import linear_probe
from advlab.command import require_at_least
from advlab.engine.launcher import launch
from advlab.engine.progress import OnProgress, following
from advlab.engine.session import host_count
from advlab.errors import UserError
from advlab.models.quocnet import preset
from advlab.store import Store, Study
from advlab.studies.experiment import TrainExperiment
from advlab.studies.quocnet import show as presentation
from advlab.studies.quocnet.work import ATTACKED, SCORES, Layout, QuocNetConfig, images, work


@dataclass(frozen=True, kw_only=True, slots=True)
class QuocNet(TrainExperiment):
    """Train QuocNet without labels on Ray Train, and a car classifier on top; attack the classifier (Figure 6)."""

    kind = "quocnet"

    settings: QuocNetConfig = field(default_factory=QuocNetConfig)
    layout: Layout = field(default_factory=Layout)

    def prepare(self) -> None:
        config, layout = self.settings, self.layout
        preset(config.model)
        groups = layout.data_parallel
        require_at_least(config, steps=1, batch_size=1)
        require_at_least(layout, space=1, data_parallel=1)
        if config.batch_size % groups:
            raise UserError(f"--batch-size {config.batch_size} cannot be split into {groups} parts; choose a multiple.")
        if layout.parallelism == "fsdp" and layout.space > 1:
            workers = groups * layout.space
            raise UserError(f"--parallelism fsdp only splits batches; give --data-parallel {workers} --space 1.")
        if layout.alone and groups * layout.space > 1:
            raise UserError("--alone is a single process; leave out --space and --data-parallel, or --alone.")
        dataset = images(config, "train")
        if not config.batch_size <= len(dataset):
            raise UserError(
                f"--batch-size {config.batch_size} is more than the {len(dataset)} images of {config.data}."
            )

    def run(self, plan: None, study: Study, workers: None, on_progress: OnProgress) -> None:  # noqa: ARG002
        if study.manifest["finished"] is not None:
            return

        def rows() -> list[dict[str, Any]]:
            written = study.store.files("losses", suffix=".parquet")
            return losses(study.store).select(["step", "loss", "seconds"]).to_pylist() if written else []

        with following(study.store, "training", rows, on_progress):
            launch(study, work, QuocNetConfig(**study.config), self.layout, self.layout.fewest)
        study.manifest["result"] = _summary(study.store)
        study.finish(1 if self.layout.alone else host_count())

    show = staticmethod(presentation.show)


def losses(store: Store) -> pa.Table:
    """``step``, ``loss``, ``errors`` (per stage) and ``seconds`` of every step, each once.

    A run that was resumed with another ``--checkpoint-every`` may have written a step twice.
    """
    table = pa.concat_tables(store.read_table(name) for name in store.files("losses", suffix=".parquet"))
    return table.take(np.unique(table["step"].to_numpy(), return_index=True)[1])


def _summary(store: Store) -> dict[str, Any]:
    """The results of the run, for its manifest."""
    steps = losses(store)
    summary: dict[str, Any] = {
        "loss": float(np.mean(steps["loss"].to_numpy()[-50:])),
        "seconds_per_step": float(np.median(steps["seconds"].to_numpy())),
    }
    if store.exists(SCORES):
        table = store.read_table(SCORES)
        score, truth = (torch.tensor(table[name].to_numpy(zero_copy_only=False)) for name in ("score", "positive"))
        summary["detection"] = asdict(linear_probe.detection(score, truth))
    if store.exists(ATTACKED):
        table = store.read_table(ATTACKED, ["success", "rms"])
        success = table["success"].to_numpy(zero_copy_only=False)
        summary |= {"attacked": len(table), "fooled": int(success.sum())}
        summary["mean_rms"] = float(table["rms"].to_numpy().mean())
    return summary
