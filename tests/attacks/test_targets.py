"""Target policies: what they choose, and that shards do not change it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from advlab.attacks import targets
from advlab.errors import UserError

LOGITS = torch.tensor([[5.0, 1.0, 4.0, 2.0], [0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 3.0]])
LABELS = torch.tensor([0, 3, 0])


def choose(
    policy: str | Tensor, logits: Tensor, labels: Tensor, *, seed: int = 0, index: Tensor | None = None
) -> Tensor:
    """``targets.choose`` of a policy that names one class."""
    target = targets.choose(policy, logits, labels, seed=seed, index=index)
    assert target is not None
    return target


def test_policies_by_hand() -> None:
    assert targets.choose("nearest", LOGITS, LABELS) is None
    assert choose("runner-up", LOGITS, LABELS).tolist() == [2, 2, 3]
    assert choose("least-likely", LOGITS, LABELS).tolist() == [1, 0, 1]
    assert choose(torch.tensor([1, 2, 0]), LOGITS, LABELS).tolist() == [1, 2, 0]


@pytest.mark.parametrize("policy", ["runner-up", "least-likely", "random"])
@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_no_policy_aims_at_the_label(policy: str, num_classes: int) -> None:
    logits = torch.randn(500, num_classes, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(500) % num_classes
    target = choose(policy, logits, labels)
    assert target.ne(labels).all()
    assert target.min() >= 0
    assert target.max() < num_classes


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    index=st.lists(st.integers(0, 2**40), min_size=1, max_size=30),
    cut=st.integers(0, 30),
)
def test_random_targets_do_not_depend_on_shards(seed: int, index: list[int], cut: int) -> None:
    position, labels = torch.tensor(index), torch.tensor(index) % 10
    logits = torch.zeros(len(index), 10)

    def drawn(rows: slice) -> list[int]:
        return choose("random", logits[rows], labels[rows], seed=seed, index=position[rows]).tolist()

    assert drawn(slice(None)) == drawn(slice(cut)) + drawn(slice(cut, None))


def test_random_targets_are_uniform_over_the_wrong_classes() -> None:
    labels = torch.zeros(90_000, dtype=torch.int64)
    target = choose("random", torch.zeros(90_000, 10), labels, seed=7)
    counts = torch.bincount(target, minlength=10)
    assert counts[0] == 0
    # 10,000 ± 5 standard deviations of a binomial with p = 1/9
    assert (counts[1:] - 10_000).abs().max() < 5 * (90_000 * 1 / 9 * 8 / 9) ** 0.5


def test_random_targets_change_with_the_seed() -> None:
    labels = torch.zeros(1000, dtype=torch.int64)
    first, second = (choose("random", torch.zeros(1000, 10), labels, seed=seed) for seed in (0, 1))
    assert 0.8 < first.ne(second).double().mean() < 0.97  # 8/9 where independent


def test_default_index_counts_rows() -> None:
    explicit = choose("random", LOGITS, LABELS, index=torch.arange(3))
    assert torch.equal(choose("random", LOGITS, LABELS), explicit)


@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        ("closest", "unknown target policy 'closest'; choose one of random, nearest, runner-up, least-likely"),
        (torch.tensor([1, 2, 4]), "target holds a class outside 0..3"),
        (torch.tensor([1, 2, -1]), "target holds a class outside 0..3"),
    ],
)
def test_refusals(policy: str | Tensor, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        targets.choose(policy, LOGITS, LABELS)
