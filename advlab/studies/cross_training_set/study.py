"""Tables 3 and 4: models trained on disjoint halves of the training set, attacked on test images.

This is a transfer study of models whose names contain their half, and of their errors on both halves for Table 3.
"""

from dataclasses import dataclass, field, replace
from typing import Annotated

import pyarrow as pa
from rich.table import Table
from rich.text import Text

from advlab import data
from advlab.command import also, listed
from advlab.data import splits
from advlab.engine.pool import ActorPool
from advlab.engine.progress import OnProgress
from advlab.errors import UserError
from advlab.models.evaluation import error_rate
from advlab.models.study_models import trained_by
from advlab.report import Shown
from advlab.report.numbers import beside, percent, rms, ruled
from advlab.studies.transfer import paper_numbers, show
from advlab.studies.transfer.paper_numbers import as_printed
from advlab.studies.transfer.plan import Plan, TransferConfig, prepare
from advlab.studies.transfer.results import TransferStudy
from advlab.studies.transfer.study import TransferExperiment
from advlab.studies.transfer.view import View

HALVES = "halves.parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossTrainingSetConfig:
    """Settings that determine the rows of a cross-training-set study."""

    dataset: Annotated[str, also("--data")] = "mnist"
    """Data set: mnist or fashion_mnist."""
    on_first: str = "fc100-100-10,fc123-456-10"
    """Comma-separated zoo names of the models trained on the first half of the training set: M1 and M1'."""
    on_second: str = "fc100-100-10"
    """Comma-separated zoo names of the models trained on the second half: M2."""
    examples: Annotated[int, also("--images")] = 1000
    """Number of test images attacked per model: the first of the test set."""
    attack: str = "lbfgs"
    """lbfgs (the paper's), minimum-norm (ours) or foolbox:CLASS."""
    target: str = "random"
    """random, nearest, runner-up, least-likely, all, or a class."""
    amplitudes: str = "0.1"
    """Comma-separated RMS to which perturbations are amplified, each in four variants: unclipped, clipped, of that RMS
    after clipping, and by the formula as printed."""
    noise: str = "0.06,0.1"
    """Comma-separated standard deviations of Gaussian noise."""
    matched: str = "shuffled,sphere,noise,borrowed"
    """Comma-separated controls with the same norm as each perturbation."""
    shard_size: int = 250
    """Images per shard, the unit of work."""
    seed: int = 0
    """Seed of the halves, of training, of random targets and of noise."""

    def transfer(self) -> TransferConfig:
        """The settings of the transfer study; a UserError if there is no model for one of the halves."""
        for option, names in (("--on-first", self.on_first), ("--on-second", self.on_second)):
            if not listed(names):
                raise UserError(f"{option} {names!r} names no model; give e.g. fc100-100-10.")
        models = [f"{name}@{splits.full_name('p1', self.seed)}" for name in listed(self.on_first)]
        models += [f"{name}@{splits.full_name('p2', self.seed)}" for name in listed(self.on_second)]
        variants = ("", "-clipped", "-boxed", "-literal")
        controls = [f"amplified-{rho}{variant}" for rho in listed(self.amplitudes) for variant in variants]
        controls += [f"gaussian-{sigma}" for sigma in listed(self.noise)]
        same = {name: getattr(self, name) for name in ("dataset", "examples", "attack", "target", "shard_size", "seed")}
        noise = ",".join([*controls, *listed(self.matched)])
        return TransferConfig(split="test", models=",".join(models), controls=noise, **same)


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossTrainingSet(TransferExperiment):
    """Measure transfer between models of disjoint halves of the training set: Tables 3 and 4."""

    settings: CrossTrainingSetConfig = field(default_factory=CrossTrainingSetConfig)

    def prepare(self) -> Plan:
        return prepare(self.settings.transfer())

    def run(self, plan: Plan, study: TransferStudy, workers: ActorPool, on_progress: OnProgress) -> None:
        TransferExperiment.run(self, plan, study, workers, on_progress)
        record_halves(study)

    @staticmethod
    def show(study: TransferStudy, width: int) -> Shown:
        view = View(study)
        shown = show.show(view, width)
        return replace(shown, tables=[halves_table(view), *shown.tables])


def record_halves(study: TransferStudy) -> None:
    """Write ``halves.parquet``: each model's error on both halves of the training set and on the test set, clean."""
    if study.store.is_whole(HALVES):
        return
    name, seed = study.config["dataset"], study.config["seed"]
    sets = {split: data.load(name, split, seed=seed) for split in ("p1", "p2", "test")}
    rows = []
    for model in study.targets:
        network = trained_by(study, model).network()
        errors = {f"{split}_error": error_rate(network, part.images, part.labels) for split, part in sets.items()}
        rows.append({"model": model, **errors})
    study.store.write_table(HALVES, pa.Table.from_pylist(rows))


def halves_table(view: View) -> Table:
    """Table 3 for a terminal: errors in per cent on both halves and on the test set, and mean distortion."""
    distortion = {row.source: row.mean_rms for row in view.matrix.rows}
    printed = paper_numbers.TABLE_3 if view.paper is paper_numbers.TABLE_4 else {}
    headings = ("error on P1 %", "error on P2 %", "test error %", "mean RMS")
    table = ruled("Models of two halves", ["model"], headings)
    for row in view.study.store.read_shard(HALVES).to_pylist():
        theirs = printed.get(paper_numbers.undrawn(row["model"]))
        cells = [
            beside(percent(row[column], 2), None if theirs is None else as_printed(getattr(theirs, column)))
            for column in ("p1_error", "p2_error", "test_error")
        ]
        found = beside(rms(distortion[row["model"]]), None if theirs is None else f"{theirs.distortion:g}")
        table.add_row(Text(row["model"]), *cells, found)
    return table
