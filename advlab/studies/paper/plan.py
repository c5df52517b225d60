"""The paper's MNIST experiments as transfer studies in one folder, repeated over seeds.

``tables_1_and_2/seed=K``   the six models of Table 1, attacked on training images
``tables_3_and_4/seed=K``   models of two halves, attacked on test images
``readings``                the softmax rows by other readings of the paper's text
``targets/POLICY``          the six models with other target policies
``alignment.parquet``       predictors of the transferability of their examples
"""

from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any, Literal

import pyarrow as pa

from advlab.analysis.alignment import gradient_alignment, gradient_size, input_gradients, loss_variability
from advlab.command import also
from advlab.errors import UserError
from advlab.models.study_models import trained_by
from advlab.store import Store
from advlab.studies.cross_training_set.study import CrossTrainingSetConfig
from advlab.studies.transfer.plan import TransferConfig
from advlab.studies.transfer.results import TransferStudy
from advlab.transfer.controls import CURVE, MATCHED

FIRST_TABLES, LAST_TABLES = "tables_1_and_2", "tables_3_and_4"
READINGS, TARGETS = "readings", "targets"
POLICIES = ("nearest", "runner-up", "least-likely")
"""Target policies, one folder of ``TARGETS`` each."""
ALIGNMENT = "alignment.parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperConfig:
    """Settings that determine the rows of the paper's studies."""

    only: Literal["mnist"] = "mnist"
    """Which of the paper's experiments: mnist is section 4.2, Tables 1 to 4 and Figure 7."""
    seeds: int = 5
    """Number of seeds, from 0: of training, of the halves, of random targets and of noise."""
    examples: Annotated[int, also("--images")] = 2000
    """Images attacked per model and seed."""
    attack: str = "lbfgs"
    """lbfgs (the paper's), minimum-norm (ours) or foolbox:CLASS."""
    shard_size: int = 500
    """Images per shard, the unit of work."""

    def studies(self) -> dict[str, TransferConfig]:
        """The transfer studies, by their folders; a UserError for an impossible number of seeds."""
        if self.seeds < 1:
            raise UserError(f"--seeds {self.seeds} is impossible; choose at least 1.")
        shared: dict[str, Any] = {"examples": self.examples, "attack": self.attack, "shard_size": self.shard_size}
        curve = [f"amplified-{rho:g}" for rho in CURVE]
        table_2 = ",".join(["gaussian-0.1", "gaussian-0.3", *MATCHED, *curve])
        found: dict[str, TransferConfig] = {}
        for seed in range(self.seeds):
            found[seed_folder(FIRST_TABLES, seed)] = TransferConfig(seed=seed, controls=table_2, **shared)
            halves = CrossTrainingSetConfig(seed=seed, **shared)
            found[seed_folder(LAST_TABLES, seed)] = halves.transfer()
        softmax = [f"softmax{decay}" for decay in ("1e-4", "1e-2", "1")]
        readings = [f"{name}{reading}" for reading in ("", "-plain", "-per-unit", "-early") for name in softmax]
        found[READINGS] = TransferConfig(models=",".join(readings), controls="", **shared)
        for policy in POLICIES:
            found[f"{TARGETS}/{policy}"] = TransferConfig(target=policy, controls="", **shared)
        return found


def record_alignment(out: str, seeds: int) -> None:
    """Write ``alignment.parquet``: predictors of transferability, one row per seed, source and target.

    Columns: ``seed``, ``source``, ``target``, ``gradient_size`` of the target, ``alignment`` of the two,
    ``variability`` of the source over seeds (null for a single one), ``rms`` and ``error_rate`` of the pair. An
    existing file for these seeds is not changed.
    """
    store = Store(out, repairing=True)
    if store.exists(ALIGNMENT) and set(store.read_shard(ALIGNMENT)["seed"].to_pylist()) == set(range(seeds)):
        return
    studies = [TransferStudy.open(f"{out}/{seed_folder(FIRST_TABLES, seed)}") for seed in range(seeds)]
    images, labels = studies[0].dataset.images, studies[0].dataset.labels
    found = [
        {name: input_gradients(trained_by(study, name).network(), images, labels) for name in study.targets}
        for study in studies
    ]
    names = studies[0].targets
    variability = {name: loss_variability([one[name] for one in found]) if seeds > 1 else None for name in names}
    rows = []
    for seed, (study, gradients) in enumerate(zip(studies, found, strict=True)):
        measured = {(row["source"], row["target"]): row for row in study.matrix().to_pylist()}
        for source, target in product(names, names):
            cell = measured[source, target]
            row = {"seed": seed, "source": source, "target": target, "gradient_size": gradient_size(gradients[target])}
            row |= {"alignment": gradient_alignment(gradients[source], gradients[target])}
            rows.append(
                row | {"variability": variability[source], "rms": cell["mean_rms"], "error_rate": cell["error_rate"]}
            )
    store.write_table(ALIGNMENT, pa.Table.from_pylist(rows))


def seed_folder(part: str, seed: int) -> str:
    return f"{part}/seed={seed}"
