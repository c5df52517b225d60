"""A small real study: two linear models on 40 digits, attacked in closed form, stored with the results API."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from advlab import data
from advlab.attacks.criterion import Criterion
from advlab.attacks.model import Model
from advlab.attacks.result import Adversarial, judge
from advlab.data import Dataset
from advlab.studies.transfer import paper_numbers
from advlab.studies.transfer.layout import predictions_folder
from advlab.studies.transfer.matrix import build
from advlab.studies.transfer.results import TransferStudy
from advlab.studies.transfer.rows import examples_from_arrow, examples_to_arrow, predictions_to_arrow
from advlab.studies.transfer.view import View
from advlab.transfer.evaluate import answer
from advlab.transfer.generate import attack_dataset

MODELS = ["softmax1e-4", "softmax1e-2"]
CONTROLS = ["gaussian-0.1", "gaussian-0.3", "shuffled-softmax1e-2"]
EXAMPLES = 40
CPU = torch.device("cpu")


@pytest.fixture
def study(small_study: Path) -> TransferStudy:
    """The small study, opened afresh."""
    return TransferStudy.open(str(small_study))


@pytest.fixture
def view(study: TransferStudy) -> View:
    """What a report sees of the small study."""
    return View(study)


@pytest.fixture
def repeating(study: TransferStudy, monkeypatch: pytest.MonkeyPatch) -> View:
    """The small study as if it repeated the paper's Table 2."""
    monkeypatch.setattr(paper_numbers, "FEWEST", EXAMPLES)
    study.config.update(attack="lbfgs", target="random")
    return View(study)


@pytest.fixture(scope="session")
def small_study(tmp_path_factory: pytest.TempPathFactory, mnist_train: Dataset) -> Path:
    """The folder of the small study; tests may add files to it and change none."""
    out = tmp_path_factory.mktemp("study")
    write_study(out, mnist_train, MODELS)
    return out


@pytest.fixture
def colour_study(tmp_path: Path) -> TransferStudy:
    """A study of photos."""
    return write_study(tmp_path / "colour", data.load("cifar10", "test"), MODELS[1:])


@pytest.fixture
def two_colour_models(tmp_path: Path) -> TransferStudy:
    """A study of photos with two models."""
    return write_study(tmp_path / "colours", data.load("cifar10", "test"), MODELS)


@pytest.fixture
def one_model_study(tmp_path: Path, mnist_train: Dataset) -> TransferStudy:
    """A study of a single model, the test's own to change."""
    return write_study(tmp_path / "one", mnist_train, MODELS[:1])


def write_study(out: Path, train: Dataset, models: list[str]) -> TransferStudy:
    """Write a whole transfer study of least-squares classifiers into ``out``."""
    clean = train.subset(slice(EXAMPLES))
    controls = [control for control in CONTROLS if not control.startswith("shuffled") or "softmax1e-2" in models]
    study = TransferStudy.adopt(
        str(out),
        {
            "kind": "transfer",
            "config": {
                "dataset": train.name,
                "models": models,
                "split": train.split,
                "examples": EXAMPLES,
                "attack": "closed form",
                "target": "runner-up",
                "controls": controls,
                "shard_size": EXAMPLES,
                "seed": 0,
            },
            "attack": {},
            "seed": 0,
            "versions": {"advlab": "0.1.0", "torch": torch.__version__},
            "revision": "519ff29",
            "started": "2026-01-01T00:00:00+00:00",
            "finished": "2026-01-01T00:01:00+00:00",
            "hosts": 1,
            "dataset": {"name": train.name, "split": train.split, "fingerprint": clean.fingerprint},
            "models": {
                name: {
                    "fingerprint": f"{position:064x}",
                    "recipe": {"architecture": "linear"},
                    "report": {"train_error": 0.0671, "test_error": 0.074, "iterations": 1234},
                }
                for position, name in enumerate(models)
            },
        },
    )
    classifiers = {name: linear_classifier(train, 10.0 ** (2 * k)) for k, name in enumerate(models)}
    images = clean.images.numpy()
    for source in study.sources:
        if not study.is_control(source):
            attacked = attack_dataset(classifiers[source], clean, step_over, "runner-up", seed=0, device=CPU)
            study.store.write_table(f"examples/source={source}/part-0.parquet", examples_to_arrow(attacked))
    for source in study.sources:
        table = study.examples(source)
        distorted = study.images(table)
        examples = examples_from_arrow(table)
        own = classifiers.get(source)
        own_answers = None if own is None else answer(own, distorted, examples.label, device=CPU)
        for target, model in classifiers.items():
            rows = predictions_to_arrow(
                examples,
                answer(model, images, examples.label, device=CPU),
                answer(model, distorted, examples.label, device=CPU),
                own_answers,
            )
            study.store.write_table(f"predictions/source={source}/target={target}/part-0.parquet", rows)
    pairs = product(study.sources, study.targets)
    files = {pair: dict.fromkeys(study.store.files(predictions_folder(*pair)), "") for pair in pairs}
    study.store.write_table("matrix.parquet", build(study.store, files))
    return study


def linear_classifier(train: Dataset, ridge: float) -> nn.Module:
    """Ridge regression onto one-hot labels, fitted on 2,000 images."""
    x = train.images[:2000].flatten(1)
    y = nn.functional.one_hot(train.labels[:2000], 10).float()
    weight = torch.linalg.solve(x.T @ x + ridge * torch.eye(x.shape[1]), x.T @ y)
    layer = nn.Linear(*weight.shape)
    layer.weight.data, layer.bias.data = weight.T.contiguous(), torch.zeros(10)
    return nn.Sequential(nn.Flatten(), layer)


def step_over(
    model: Model,
    images: Tensor,
    labels: Tensor,
    target: str | Tensor,
    bounds: tuple[float, float],
    *,
    seed: int,  # noqa: ARG001
    index: Tensor | None,  # noqa: ARG001
) -> Adversarial:
    """Step 2% (then more, as the box clips) beyond a linear model's boundary towards the runner-up."""
    assert target == "runner-up"
    weight = model[1].weight.detach()  # type: ignore[index]
    logits = model(images).detach()
    aim = logits.scatter(1, labels[:, None], -math.inf).argmax(1)
    normal = (weight[aim] - weight[labels]).view_as(images)
    gap = (logits.gather(1, labels[:, None]) - logits.gather(1, aim[:, None]))[:, :, None, None]
    found = images.clone()
    open_rows = torch.ones(len(images), dtype=torch.bool)
    for reach in (1.02, 1.5, 2.0, 3.0, 5.0, 9.0):
        step = reach * gap / normal.square().sum((1, 2, 3), keepdim=True) * normal
        found[open_rows] = (images + step).clamp(*bounds)[open_rows]
        open_rows = ~Criterion(labels).is_met(model(found))
    return judge(model, images, found, Criterion(labels), torch.full_like(labels, 6))
