"""The batched root finder behind the search over c."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from advlab.attacks.bracket import Bracket


def find(
    functions: list[Callable[[Tensor], Tensor]], start: float, width: float, limit: int = 60
) -> tuple[Bracket, Tensor]:
    """The closed brackets, and how many points each took."""
    bracket = Bracket(torch.full((len(functions),), start), width, stride=2.0)
    rows, points = torch.arange(len(functions)), torch.zeros(len(functions), dtype=torch.int64)
    for _ in range(limit):
        values = torch.stack([functions[row](bracket.point[row]) for row in rows.tolist()])
        points[rows] += 1
        bracket.update(rows, values)
        rows = rows[~bracket.closed(rows)]
        if not len(rows):
            break
    return bracket, points


@settings(deadline=None, max_examples=50)
@given(
    root=st.floats(-12, 12),
    start=st.floats(-12, 12),
    steepness=st.floats(0.05, 20),
    width=st.floats(1e-3, 0.5),
    shape=st.sampled_from(["linear", "saturating", "cubic", "exponential", "sign"]),
)
@example(root=-7.0, start=3.0, steepness=6.0, width=0.125, shape="exponential")
def test_closes_in_on_the_root(root: float, start: float, steepness: float, width: float, shape: str) -> None:
    def function(point: Tensor) -> Tensor:
        t = steepness * (point - root)
        return {
            "linear": t,
            "saturating": t.tanh(),
            "cubic": t**3,
            "exponential": t.clamp(max=50).expm1(),
            "sign": torch.where(t > 0, 1.0, -1.0).double(),
        }[shape]

    bracket, _ = find([function], start, width)
    assert bracket.closed(torch.tensor([0])).all()
    assert bracket.low[0] <= root + 1e-12 <= bracket.high[0] + 2e-12


def test_few_points_for_a_smooth_function_and_rows_apart() -> None:
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda t: (t - 1).tanh(),
        lambda t: 3 * (t + 2) + (t + 2) ** 3,
        lambda t: t - 0.1,
    ]
    together, points = find(functions, 0.0, 0.01)
    assert points.max() <= 12
    for row, function in enumerate(functions):
        alone, _ = find([function], 0.0, 0.01)
        assert alone.low[0] == together.low[row]
        assert alone.high[0] == together.high[row]


def test_nan_counts_as_above() -> None:
    bracket, _ = find([lambda t: torch.where(t > 1, torch.nan, -1.0).double()], 0.0, 0.01)
    assert bracket.low[0] <= 1 < bracket.high[0]


def test_an_end_that_is_contradicted_is_forgotten() -> None:
    bracket = Bracket(torch.zeros(1), 0.1, stride=1.0)
    row = torch.tensor([0])
    bracket.update(row, torch.tensor([-1.0]))
    assert bracket.low[0] == 0
    bracket.point[0] = 0.0
    bracket.update(row, torch.tensor([0.5]))
    assert bracket.low[0] == -torch.inf
    assert bracket.high[0] == 0
    assert bracket.point[0] < 0
