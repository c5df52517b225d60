"""The package of a stranger adds a model, an attack, a data set, a control, a figure and a study, a line each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

REPOSITORY = Path(__file__).parents[2]
TOY = '''
import hashlib
from dataclasses import dataclass, field

import numpy as np
import torch
from matplotlib.figure import Figure

from advlab import models, studies
from advlab.attacks import registry as attacks
from advlab.attacks.criterion import Criterion
from advlab.attacks.result import Ended, judge
from advlab.command import CommonOptions
from advlab.data import catalogue
from advlab.data.sources import RawFile
from advlab.models import zoo
from advlab.report import Shown, canvas
from advlab.store import Study
from advlab.studies.experiment import Experiment
from advlab.transfer import controls


def register():
    models.register("network", "toy:linear", linear)
    models.register("trainer", "toy:mean", mean)
    zoo.register(r"toy(\\d+)", lambda name, match, data: {
        "network": "toy:linear", "trainer": "toy:mean", "trainer_arguments": {},
        "network_arguments": {"inputs": data.images[0].numel(), "classes": data.num_classes, "scale": int(match[1])},
    })
    attacks.register("toy-step", "toy:step")
    catalogue.register(ENTRY)
    kind = controls.Kind(stripes, "Stripes of height {amount:g}", from_model=False, has_amount=True)
    controls.register("stripes", kind)
    studies.register("toy", "toy:Toy")
    studies.register_figure("transfer", "errors", "toy:errors")


def linear(inputs, classes, scale):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(inputs, classes))


def mean(network, dataset, *, seed, device, progress):
    with torch.no_grad():
        for label in range(dataset.num_classes):
            network[1].weight[label] = dataset.images[dataset.labels == label].mean(0).flatten() - 0.5
        network[1].bias.zero_()
    return {}


def step(model, images, labels, target="nearest", bounds=(0.0, 1.0), *, seed=0, index=None):
    found = (1.0 - images).clamp(*bounds)
    return judge(model, images, found, Criterion(labels), torch.ones_like(labels))


def stripes(given):
    return given.images + np.float32(given.parsed.amount) * (np.arange(given.images.shape[-1]) % 2).astype(np.float32)


def errors(study):
    figure = Figure()
    figure.add_subplot().plot(study.store.read_table("matrix.parquet").column("error_rate"))
    return canvas.png(figure)


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


def content():
    labels = np.arange(40, dtype=np.uint8) % 2
    images = np.where(np.arange(16).reshape(1, 4, 4) % 2 == labels[:, None, None], 230, 20).astype(np.uint8)
    both = {"images": idx(images), "labels": idx(labels)}
    return {f"{part}-{name}": value for part in ("train", "test") for name, value in both.items()}


class Generated:
    name = "the toy package"

    def read(self, files):
        made = content()
        yield from ((file, made[file.name]) for file in files)


def file(name):
    data = content()[name]
    return RawFile(name, len(data), hashlib.sha256(data).hexdigest())


ENTRY = catalogue.Entry(
    "toys", (file("train-images"), file("train-labels")), (file("test-images"), file("test-labels")), ("even", "odd"),
    "", Generated(), lambda _name: (),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Toy(Experiment):
    """Count to --upto."""

    kind = "toy"
    upto: int = 3
    """How far."""
    common: CommonOptions = field(default_factory=CommonOptions)
    on_ray = False

    def prepare(self):
        return self.upto

    def begin(self, plan):
        return Study.begin("toy", {"upto": self.upto}, self.common.out)

    def run(self, plan, study, workers, on_progress):
        study.manifest["result"] = sum(range(plan + 1))
        study.finish(1)

    def workers(self, plan):
        import contextlib
        return contextlib.nullcontext()

    @classmethod
    def show(cls, study, width):
        return Shown(tables=[f"the sum is {study.manifest['result']}"])


if __name__ == "__main__":
    from advlab.studies.experiment import main
    main(Toy)
'''


def test_a_package_of_someone_else_adds_one_of_each(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(TOY)
    info = tmp_path / "toy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[advlab]\ntoy = toy:register\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "ADVLAB_CACHE": str(tmp_path / "cache"), "COLUMNS": "160"}

    def run(*words: str) -> str:
        line = [sys.executable, *words]
        done = subprocess.run(line, capture_output=True, text=True, check=False, env=environment, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout

    arguments = ["--dataset", "toys", "--models", "toy1,toy2", "--attack", "toy-step", "--target", "nearest"]
    arguments += ["--controls", "stripes-0.25", "--examples", "12", "--shard-size", "12", "--actors", "1"]
    run(str(REPOSITORY / "sweeps/transfer_matrix.py"), *arguments, "--out", str(tmp_path / "out"))
    rows = {(row["source"], row["target"]): row for row in pq.read_table(tmp_path / "out/matrix.parquet").to_pylist()}
    assert rows["toy1", "toy2"]["error_rate"] == 1.0  # the negative of an image is of the other class
    assert rows["stripes-0.25", "toy1"]["error_rate"] == 0.0
    assert abs(rows["stripes-0.25", "toy1"]["mean_rms"] - 0.25 / 2**0.5) < 1e-6
    page = (tmp_path / "out/report.html").read_text()
    assert "Stripes of height 0.25" in page
    assert (tmp_path / "out/figures/errors.png").read_bytes().startswith(b"\x89PNG")

    assert "the sum is 10" in run(str(tmp_path / "toy.py"), "--upto", "4", "--out", str(tmp_path / "counted"))
    assert "the sum is 10" in run("-m", "advlab.report", str(tmp_path / "counted"))
