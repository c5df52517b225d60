"""The splits partition the training set as promised, and only the seed moves the halves."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from advlab import data
from advlab.data import splits
from advlab.errors import UserError

TOTAL = 60_000


@given(st.integers(0, 2**64))
@settings(deadline=None, max_examples=20)
def test_halves_are_disjoint_and_cover_the_training_set(seed: int) -> None:
    first, second = (splits.positions(splits.full_name(split, seed), TOTAL) for split in ("p1", "p2"))
    assert len(first) == len(second) == 30_000
    assert torch.equal(torch.cat([first, second]).sort().values, torch.arange(TOTAL))
    assert torch.equal(first, first.sort().values)


def test_halves_follow_the_seed_alone() -> None:
    assert torch.equal(splits.positions("p1@3", TOTAL), splits.positions("p1@3", TOTAL))
    assert not torch.equal(splits.positions("p1@3", TOTAL), splits.positions("p1@4", TOTAL))


def test_halves_of_seed_zero_never_change() -> None:
    """Studies name their examples by position, so these numbers are part of the file format."""
    assert splits.positions("p1", TOTAL)[:8].tolist() == [1, 2, 3, 11, 13, 15, 18, 19]


def test_validation_is_the_fixed_end_of_the_training_set() -> None:
    assert torch.equal(splits.positions("validation", TOTAL), torch.arange(50_000, 60_000))
    assert torch.equal(splits.positions("fit", TOTAL), torch.arange(50_000))


@pytest.mark.parametrize("split", ["fit", "validation", "p1", "p2"])
def test_a_split_holds_the_examples_at_its_index(mnist_train: data.Dataset, split: str) -> None:
    part = data.load("mnist", split=split, seed=7)
    assert part.split == splits.full_name(split, 7)
    assert torch.equal(data.load("mnist", part.split).index, part.index)
    assert torch.equal(part.images, mnist_train.images[part.index])
    assert torch.equal(part.labels, mnist_train.labels[part.index])


def test_unknown_split_names_the_choices() -> None:
    with pytest.raises(UserError, match="'dev': choose one of train, test, fit, validation, p1, p2"):
        data.load("mnist", split="dev")


@pytest.mark.parametrize("split", ["p1@", "p1@x", "train@1", "p1@-1", "dev@1"])
def test_a_split_that_names_no_seed_is_refused(split: str) -> None:
    with pytest.raises(UserError, match=f"Unknown split {split!r}"):
        data.load("mnist", split)


def test_halves_of_seed_zero_have_one_name() -> None:
    assert splits.full_name("p1@0", 5) == splits.full_name("p1", 0) == "p1"
    assert splits.full_name("p2@3", 0) == splits.full_name("p2", 3) == "p2@3"


def test_negative_seed_is_refused() -> None:
    with pytest.raises(UserError, match="Seed -1"):
        data.load("mnist", split="p1", seed=-1)
