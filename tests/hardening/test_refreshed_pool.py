"""The pool: bounded, refreshed by policy, and never waited for."""

from __future__ import annotations

import pytest
import torch

from advlab.errors import UserError
from advlab.hardening import Batch, Pool


def batch(count: int, birth: int) -> Batch:
    births = torch.full((count,), birth)
    values = torch.full((count, 3), float(birth))
    return Batch(
        values,
        torch.arange(count) % 10,
        births,
        torch.arange(count),
        torch.ones(count),
        torch.full((count,), torch.inf),
    )


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_it_fills_and_then_replaces_a_random_subset(generator: torch.Generator) -> None:
    pool = Pool(100)
    pool.push(0, batch(80, 0), now=0, generator=generator)
    pool.push(0, batch(50, 1), now=1, generator=generator)
    births = pool.layers[0].births
    assert len(births) == 100
    assert int((births == 1).sum()) > 20  # the 20 that fitted, and those of the other 30 that hit an older row
    assert bool((pool.layers[0].values[:, 0] == births).all())
    assert pool.age(0, 10) == pytest.approx(10 - float(births.double().mean()))
    assert pool.lag(0) == 0.0


def test_the_oldest_go_first(generator: torch.Generator) -> None:
    pool = Pool(30, "oldest")
    for birth in range(5):
        pool.push(1, batch(10, birth), now=birth + 2, generator=generator)
    assert sorted(set(pool.layers[1].births.tolist())) == [2, 3, 4]
    assert pool.lag(1) == 2.0


def test_the_easiest_go_first(generator: torch.Generator) -> None:
    pool = Pool(4, "easiest")
    pool.push(0, batch(4, 0), now=0, generator=generator)
    pool.record(0, torch.tensor([0, 1, 2, 3]), torch.tensor([3.0, 0.1, 2.0, 0.2]))
    pool.push(0, batch(2, 1), now=1, generator=generator)
    assert pool.layers[0].births.tolist() == [0, 1, 0, 1]


def test_a_starved_pool_gives_less(generator: torch.Generator) -> None:
    pool = Pool(100, max_age=5)
    assert len(pool.draw(0, 10, now=0, generator=generator)[1]) == 0
    pool.push(0, batch(20, 0), now=0, generator=generator)
    pool.push(0, batch(4, 8), now=8, generator=generator)
    assert len(pool.draw(0, 10, now=3, generator=generator)[1]) == 10
    rows, drawn = pool.draw(0, 10, now=9, generator=generator)
    assert len(rows) == len(drawn) == 4
    assert set(drawn.births.tolist()) == {8}
    assert len(pool.draw(0, 10, now=100, generator=generator)[1]) == 0


def test_it_comes_back_as_it_was(generator: torch.Generator) -> None:
    pool = Pool(10, "easiest")
    pool.push(0, batch(10, 3), now=3, generator=generator)
    pool.record(0, torch.tensor([4]), torch.tensor([0.5]))
    again = Pool(10, "easiest")
    again.restore(pool.state())
    assert all(torch.equal(value, again.state()[name]) for name, value in pool.state().items())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((0,), "`capacity` 0 is impossible"),
        ((5, "best"), "random, oldest, easiest"),
        ((5, "oldest", 0), "`max_age` 0 is impossible"),
    ],
)
def test_mistakes_are_named(arguments: tuple[int, str, int], told: str) -> None:
    with pytest.raises(UserError, match=told):
        Pool(*arguments)  # type: ignore[arg-type]
