"""Studies of units: independent of how the images are cut, resumed, and refused when they are others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advlab.analysis.directions import Moments, directions
from advlab.analysis.features import Features
from advlab.command import CommonOptions
from advlab.data import Dataset
from advlab.engine.actors import PoolOptions
from advlab.engine.pool import ActorPool
from advlab.errors import UserError
from advlab.store import Study
from advlab.studies.directions.study import Units, UnitsConfig

MODEL = """
import torch
from torch import nn


def tiny() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 20), nn.ReLU(), nn.Linear(20, 10))
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> UnitsConfig:
    path = tmp_path_factory.mktemp("units") / "model.py"
    path.write_text(MODEL)
    return UnitsConfig(model=f"file:{path}:tiny", examples=600, directions=8, top=5, shard_size=600)


def run(config: UnitsConfig, out: Path) -> Study:
    units = Units(settings=config, common=CommonOptions(out=str(out)))
    plan = units.prepare()
    study = units.begin(plan)
    with ActorPool(PoolOptions(actors=1), elastic=False) as pool:
        units.run(plan, study, pool, lambda _: None)
    return study


@pytest.fixture(scope="module")
def whole(local_ray: None, config: UnitsConfig, tmp_path_factory: pytest.TempPathFactory) -> Study:  # noqa: ARG001
    return run(config, tmp_path_factory.mktemp("whole"))


def test_the_top_images_are_those_of_all_activations(whole: Study, config: UnitsConfig, mnist_test: Dataset) -> None:
    plan = Units(settings=config).prepare()
    parts = [values for values, _ in Features(plan.subject.model, "").batches(mnist_test.images[:600])]
    features = np.concatenate([part[:, :, 0].numpy() for part in parts])
    vectors = directions("natural", 8, Moments.of(features), seed=0)
    scores = features @ vectors.T
    expected = np.argsort(-scores, axis=0, kind="stable")[:5].T
    winners = whole.store.read_table("winners.parquet").to_pandas()
    found = winners[winners["basis"] == "natural"]["index"].to_numpy().reshape(-1, 5)
    assert (found == expected).all()
    labels = winners[winners["basis"] == "natural"]["label"].to_numpy().reshape(-1, 5)
    assert (labels == mnist_test.labels.numpy()[expected]).all()


@pytest.mark.usefixtures("local_ray")
def test_the_cut_into_shards_does_not_matter(whole: Study, config: UnitsConfig, tmp_path: Path) -> None:
    cut = run(replace(config, shard_size=130), tmp_path / "out")
    one, other = (study.store.read_table("winners.parquet").to_pandas() for study in (whole, cut))
    columns = ["basis", "direction", "rank", "index", "label"]
    assert one[columns].equals(other[columns])


@pytest.mark.usefixtures("local_ray")
def test_what_is_missing_is_made_again_and_nothing_else(whole: Study, config: UnitsConfig) -> None:
    folder = Path(whole.store.root)
    before = whole.store.read_table("winners.parquet")
    kept = {path: path.stat().st_ino for path in folder.rglob("part-*.parquet") if "top" not in str(path)}
    (folder / "top/part-00000000.parquet").unlink()
    (folder / "winners.parquet").unlink()
    run(config, folder)
    assert whole.store.read_table("winners.parquet").equals(before)
    assert {path: path.stat().st_ino for path in kept} == kept


def test_another_study_in_the_same_place_is_refused(whole: Study, config: UnitsConfig) -> None:
    units = Units(settings=replace(config, top=6), common=CommonOptions(out=whole.store.uri))
    plan = units.prepare()
    with pytest.raises(UserError, match="its top is 5, here 6"):
        units.begin(plan)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"examples": 4}, "--examples 4 is impossible"),
        ({"top": 1}, "--top 1 is impossible; choose at least 2"),
        ({"layer": "nowhere"}, "no layer 'nowhere'"),
        ({"data": "cifar"}, "Unknown data set 'cifar'"),
    ],
)
def test_mistakes_are_reported(config: UnitsConfig, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        Units(settings=replace(config, **settings)).prepare()
