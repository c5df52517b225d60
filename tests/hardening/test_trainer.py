"""Training with a pool: reproducible to the bit, resumed or not, and of use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from advlab import models
from advlab.data import Dataset
from advlab.errors import UserError
from advlab.hardening.settings import VARIANTS, Settings, variant
from advlab.hardening.trainer import Alternating, Frozen, Trainer, cut
from advlab.store import Store
from advlab.studies.adversarial_training.work import Snapshots

Weights = dict[str, torch.Tensor]


def trainer_of(settings: Settings, dataset: Dataset, seed: int = 0) -> Trainer:
    return Trainer(settings, dataset, seed=seed, source=Alternating())


def equal(a: Weights, b: Weights) -> bool:
    return all(torch.equal(a[name], b[name]) for name in {**a, **b})


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_repeats_itself_to_the_bit_stopped_or_not(
    name: str, thousand: Dataset, short: Settings, tmp_path: Path
) -> None:
    settings = variant(name, replace(short, replacement="easiest", levels=()))
    whole = trainer_of(settings, thousand)
    whole.run(whole.total)
    first = trainer_of(settings, thousand)
    first.run(13)  # in the middle of an epoch
    curve = [{"epoch": 1.0, "seconds": 2.0, "cpu_seconds": 2.0, "loss": 0.5}]
    Snapshots(Store(tmp_path), "pool", "key").keep(first, curve)
    torch.manual_seed(99)
    second = trainer_of(settings, thousand)
    assert Snapshots(Store(tmp_path), "pool", "key").resume(second) == curve
    assert equal(first.pool.state(), second.pool.state())
    second.run(second.total - second.step)
    assert equal(whole.network.state_dict(), second.network.state_dict())
    assert equal(whole.pool.state(), second.pool.state())
    other = trainer_of(settings, thousand, seed=1)
    other.run(other.total)
    assert not equal(whole.network.state_dict(), other.network.state_dict())


@pytest.mark.parametrize("network", ["conv", "softmax1e-4", "fc20-15-10-10"])
def test_a_network_of_the_zoo_repeats_itself_to_the_bit_stopped_or_not(
    network: str, thousand: Dataset, short: Settings, tmp_path: Path
) -> None:
    few = thousand.subset(slice(300))
    base = replace(short, network=network, levels=(), epochs=2, batch_size=60, capacity=100)
    settings = variant("all", base, cut(models.build(network, few), base, few)[0].count)
    whole = trainer_of(settings, few)
    told = whole.run(whole.total)
    assert sorted(whole.pool.layers) == list(settings.levels) == list(range(len(whole.shapes)))
    assert {f"hit_rate_{level}" for level in settings.levels} <= set(told)
    first = trainer_of(settings, few)
    first.run(7)
    Snapshots(Store(tmp_path), "pool", "key").keep(first, [])
    torch.manual_seed(99)
    second = trainer_of(settings, few)
    Snapshots(Store(tmp_path), "pool", "key").resume(second)
    second.run(second.total - second.step)
    assert equal(whole.network.state_dict(), second.network.state_dict())
    assert equal(whole.pool.state(), second.pool.state())


def test_a_convolutional_network_is_hardened(thousand: Dataset, short: Settings) -> None:
    """It learns the clean images and those in its pool of images and maps, half of which it misclassified at first."""
    settings = replace(short, network="conv", epochs=4, sizes=(0.1, 0.1, 0.1))
    trainer = trainer_of(settings, thousand)
    assert trainer.shapes == [(1, 28, 28), (32, 24, 24), (128,)]
    early = trainer.run(3)
    told = trainer.run(trainer.total - 3)
    assert told["loss"] < 0.5 * early["loss"]
    assert all(told[f"hit_rate_{level}"] < 0.5 for level in range(3))
    assert trainer.pool.layers[1].values.shape == (settings.capacity, 32 * 24 * 24)


def test_variants_are_those_of_the_network(short: Settings) -> None:
    base = replace(short, levels=(), network="fc20-15-10-10", sizes=(0.2, 0.1), mixing=(0.5,))
    everything = variant("all", base, 4)
    assert everything.levels == (0, 1, 2, 3)
    assert everything.sizes == (0.2, 0.1, 0.1, 0.1)
    assert everything.mixing == (0.5,) * 4
    assert variant("layer-3", base, 4).levels == (3,)
    assert variant("layer-3", base, 4).sizes == (0.0, 0.0, 0.0, 0.1)
    with pytest.raises(UserError, match="levels 0 to 0"):
        variant("layer-1", base, 1)


def test_a_snapshot_of_another_run_is_not_taken_up(thousand: Dataset, short: Settings, tmp_path: Path) -> None:
    trainer = trainer_of(short, thousand)
    trainer.run(2)
    Snapshots(Store(tmp_path), "pool", "one").keep(trainer, [])
    fresh = trainer_of(short, thousand)
    assert Snapshots(Store(tmp_path), "pool", "another").resume(fresh) == []
    assert fresh.step == 0


def test_the_pool_is_measured_as_training_goes_on(thousand: Dataset, short: Settings) -> None:
    settings = replace(short, epochs=12, sizes=(0.1, 0.1, 0.1))
    hardened = trainer_of(settings, thousand)
    told = hardened.run(hardened.total)
    assert told["examples"] > 3.8 * 12 * 1000
    for level, held in hardened.pool.layers.items():
        assert told[f"age_{level}"] > 1
        assert told[f"lag_{level}"] == 0
        assert 0 < told[f"hit_rate_{level}"] < 0.5
        assert len(held) == settings.capacity


def test_a_frozen_pool_stays_as_it_is(thousand: Dataset, short: Settings) -> None:
    maker = trainer_of(short, thousand)
    maker.run(10)
    before = {name: value.clone() for name, value in maker.pool.state().items()}
    user = Trainer(short, thousand, seed=1, source=Frozen(), pool=maker.pool)
    told = user.run(5)
    assert told["examples"] == 5 * 4 * 100
    assert equal(before, user.pool.state())


def test_without_a_pool_yet_the_trainer_goes_on_with_clean_images(thousand: Dataset, short: Settings) -> None:
    alone = Trainer(short, thousand, seed=0, source=Frozen())
    assert alone.run(3)["examples"] == 3 * 100


def test_mistakes_are_named(short: Settings) -> None:
    with pytest.raises(UserError, match="levels 0 to 2"):
        replace(short, levels=(0, 3))
    with pytest.raises(UserError, match="`sizes`"):
        replace(short, sizes=(0.1,))
    for unknown in ("best", "layer-0", "layer-x"):
        with pytest.raises(UserError, match=f"unknown variant '{unknown}'"):
            variant(unknown, short)
    with pytest.raises(UserError, match="'conv' has its own: leave out `dropout`"):
        variant("dropout", replace(short, levels=(), network="conv"), 3)


@pytest.mark.parametrize(
    ("network", "told"),
    [
        ("ae30-10", "AutoencoderClassifier is not an nn.Sequential"),
        ("convolutional", "unknown model 'convolutional'"),
        ("fc20-7", "has 7 outputs; mnist has 10 classes"),
        ("python:advlab.models.alexnet:random", "does not take the 1 × 28 × 28 images of mnist"),
        ("python:advlab.models.convnet:ConvNet", None),
        ("python:torch.nn:Flatten", "Flatten is not an nn.Sequential"),
        ("python:torch.nn:Sequential", r"logits of shape \[1, 28, 28\], and mnist has 10 classes"),
    ],
)
def test_a_network_is_tried_before_it_is_trained(
    network: str, told: str | None, thousand: Dataset, short: Settings
) -> None:
    settings = replace(short, network=network)
    if told is None:
        trainer_of(settings, thousand).run(1)
        return
    with pytest.raises(UserError, match=told):
        trainer_of(settings, thousand)
