"""Margins and success, by hand and against their definition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from advlab.attacks.criterion import Criterion, in_play, rounding_margin

LOGITS = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0], [1.0, 1.0, 1.0]])
LABELS = torch.tensor([0, 1, 2])


def test_untargeted_margin_is_the_lead_of_the_label() -> None:
    criterion = Criterion(LABELS)
    assert criterion.margin(LOGITS).tolist() == [1.0, 1.0, 0.0]
    assert criterion.is_met(LOGITS).tolist() == [False, False, False]
    assert criterion.reached(LOGITS).tolist() == [2, 2, 0]


def test_targeted_margin_is_the_lag_of_the_target() -> None:
    criterion = Criterion(LABELS, torch.tensor([2, 1, 0]))
    assert criterion.margin(LOGITS).tolist() == [1.0, -1.0, 0.0]
    assert criterion.is_met(LOGITS).tolist() == [False, True, False]
    assert criterion.reached(LOGITS).tolist() == [2, 1, 0]


@pytest.mark.parametrize("target", [None, torch.tensor([1, 0, 0])])
def test_rows_selects_and_reorders(target: torch.Tensor | None) -> None:
    criterion, rows = Criterion(LABELS, target), torch.tensor([2, 0])
    torch.testing.assert_close(criterion.rows(rows).margin(LOGITS[rows]), criterion.margin(LOGITS)[rows])


@pytest.mark.parametrize("target", [None, torch.tensor([1])])
def test_nan_logits_are_a_failure(target: torch.Tensor | None) -> None:
    criterion = Criterion(torch.tensor([0]), target)
    for logits in ([torch.nan, 1.0, 0.0], [0.0, torch.nan, 1.0], [torch.nan] * 3):
        assert not criterion.is_met(torch.tensor([logits])).item()
        assert not criterion.is_met_robustly(torch.tensor([logits]), torch.zeros(1)).item()


@settings(deadline=None)
@given(
    logits=st.lists(st.lists(st.floats(-50, 50, width=32), min_size=4, max_size=4), min_size=1, max_size=5),
    label=st.integers(0, 3),
    target=st.integers(0, 3),
)
def test_success_means_classified_so_by_argmax(logits: list[list[float]], label: int, target: int) -> None:
    scores = torch.tensor(logits)
    labels, targets = torch.full((len(scores),), label), torch.full((len(scores),), target)
    best = scores.amax(1, keepdim=True)
    unique_winner = ((scores == best).sum(1) == 1) & (scores.argmax(1) == target)
    assert torch.equal(Criterion(labels, targets).is_met(scores), unique_winner)
    label_beaten = (scores.gather(1, labels[:, None]) < best).squeeze(1)
    assert torch.equal(Criterion(labels).is_met(scores), label_beaten)


def test_robust_success_asks_for_more_than_rounding() -> None:
    clean = torch.tensor([[10.0, 9.0], [10.0, 9.0]])
    scores = torch.tensor([[5.0, 5.0 + 2e-5], [5.0, 5.0 + 4e-4]])
    criterion = Criterion(torch.tensor([0, 0]))
    rounding = rounding_margin(clean, torch.float32)
    assert criterion.is_met(scores).all()
    assert criterion.is_met_robustly(scores, rounding).tolist() == [False, True]
    assert rounding_margin(clean, torch.float64).max() < 1e-12
    assert rounding[0] < rounding_margin(clean, torch.float16)[0] < rounding_margin(clean, torch.bfloat16)[0] < 1


@pytest.mark.parametrize("masked", [-torch.inf, -1e9, -65504.0, -1e4, -1e3])
@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0])
def test_masked_classes_are_out_of_play(masked: float, size: float) -> None:
    free = size * torch.tensor([[2.0, 1.0, -1.5], [0.1, 0.0, -1.0]])
    logits = torch.cat([free, torch.full((2, 1), masked)], 1)
    assert in_play(free).all()
    assert torch.equal(in_play(logits), torch.tensor([[True, True, True, False]] * 2))
    assert torch.equal(rounding_margin(logits, torch.float32), rounding_margin(free, torch.float32))


def test_large_and_broken_logits_stay_in_play() -> None:
    logits = torch.tensor([[5e3, 1e3, -4e4], [1e6, 1e6 - 3, 1e6 - 90], [torch.nan, 1.0, 0.0]])
    assert in_play(logits).all()
    assert rounding_margin(logits, torch.float32).isnan().tolist() == [False, False, True]
