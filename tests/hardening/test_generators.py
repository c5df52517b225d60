"""Generators as actors: the trainer takes what they made, paces them, and survives their death."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest
import ray
import torch

from advlab.data import Dataset
from advlab.engine.session import session
from advlab.hardening.settings import Settings
from advlab.hardening.trainer import Trainer
from advlab.studies.adversarial_training import generators
from advlab.studies.adversarial_training.generators import Generators

PATIENCE = 600.0
"""Seconds after which what should happen counts as not happening."""


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    with session(None):
        yield


def trained_until(trainer: Trainer, reached: object) -> None:
    """Go on training until ``reached()``; a run has no end here, only its learning rate has."""
    deadline = time.monotonic() + PATIENCE
    while not reached():  # type: ignore[operator]
        assert time.monotonic() < deadline
        trainer.run(generators.POLL_EVERY)
        time.sleep(0.02)  # leave the processor to the generators where there is but one


@pytest.fixture
def settings(short: Settings) -> Settings:
    return replace(short, capacity=100, refresh=5, epochs=1_000_000)


def test_examples_arrive_while_the_trainer_goes_on(thousand: Dataset, settings: Settings) -> None:
    with closing(Generators(thousand, settings, 1, seed=0)) as source:
        trainer = Trainer(settings, thousand, seed=0, source=source)
        assert trainer.run(1)["examples"] == 100  # nothing is waited for
        trained_until(trainer, lambda: source.arrived >= 300)
        assert sorted(trainer.pool.layers) == [0, 1, 2]
        told = trainer.run(generators.POLL_EVERY)
        assert told["examples"] == generators.POLL_EVERY * 4 * 100
        assert source.arrived <= settings.refresh * trainer.step + source.chunk  # they do not run ahead
        births = trainer.pool.layers[0].births
        assert 0 <= int(births.min()) <= int(births.max()) < trainer.step


def test_a_generator_that_dies_comes_back(thousand: Dataset, settings: Settings) -> None:
    with closing(Generators(thousand, settings, 1, seed=0)) as source:
        trainer = Trainer(settings, thousand, seed=0, source=source)
        trained_until(trainer, lambda: source.arrived)
        before = source.arrived
        ray.kill(source.actors[0], no_restart=False)
        trained_until(trainer, lambda: source.arrived > before + source.chunk)
        assert bool(torch.isfinite(trainer.network(thousand.images[:10])).all())


def test_a_generator_that_hangs_gives_way_to_another(
    thousand: Dataset, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generators, "PATIENCE", 5.0)
    with closing(Generators(thousand, settings, 1, seed=0)) as source:
        trainer = Trainer(settings, thousand, seed=0, source=source)
        trained_until(trainer, lambda: source.arrived > source.chunk)  # the first call waits for the process
        (hung,) = source.actors
        process = ray.get(hung.__ray_call__.remote(lambda _: os.getpid()))
        os.kill(process, signal.SIGSTOP)
        before = source.arrived
        trained_until(trainer, lambda: source.arrived > before + source.chunk)
        assert source.actors != [hung]
        assert source.losses >= 1


def test_a_defect_in_an_attack_is_reported(thousand: Dataset, settings: Settings) -> None:
    with closing(Generators(thousand, settings, 1, seed=0)) as source:
        trainer = Trainer(settings, thousand, seed=0, source=source)
        trainer.network[-1] = torch.nn.Linear(20, 11)  # weights that no generator can load
        with pytest.raises(ray.exceptions.RayTaskError, match="size mismatch"):
            trained_until(trainer, lambda: False)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_thousand_rounds_of_kills_end_in_no_deadlock(thousand: Dataset, settings: Settings) -> None:
    """Storms, in which generators are killed while they start, and calm spells, in which they die at work."""
    chance = random.Random(0)
    kills = 0
    with closing(Generators(thousand, settings, 2, seed=0, num_cpus=0.5)) as source:
        trainer = Trainer(settings, thousand, seed=0, source=source)
        for number in range(1000):
            storm = number // 100 % 2
            if chance.random() < (0.5 if storm else 0.2):
                ray.kill(chance.choice(source.actors), no_restart=False)
                kills += 1
            step, before = trainer.step, source.arrived
            trainer.run(generators.POLL_EVERY)
            assert trainer.step == step + generators.POLL_EVERY  # the trainer waits for nobody
            if not storm:
                trained_until(trainer, lambda before=before: source.arrived > before)  # type: ignore[misc]
        before = source.arrived
        trained_until(trainer, lambda: source.arrived > before + 2 * source.chunk)
        assert kills > 300
        assert source.losses > 20  # that many died with a call in hand
