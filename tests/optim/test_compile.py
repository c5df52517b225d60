"""The inner step is one graph: no data-dependent branch, no synchronisation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from advlab.optim.batch import Batch
from advlab.optim.step import Limits, direct, judge, settle

LIMITS = Limits(max_iter=100, max_evaluations=1000, max_line_search=20, gtol=1e-6, ftol=0)


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def rounds(num: int, *, compiled: bool) -> Tensor:
    """The iterates [num, 12] after some rounds on a quadratic."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(0, 2, 12, dtype=torch.float64)
    centre = torch.randn(num, 12, generator=generator, dtype=torch.float64)
    steps = (judge, settle, direct)
    if compiled:
        steps = tuple(torch.compile(step, backend="eager", fullgraph=True, dynamic=True) for step in steps)
    box = torch.tensor([[-1.0], [1.0]], dtype=torch.float64).expand(2, 12)
    batch = Batch.start(torch.zeros_like(centre), box[:1], box[1:], 3, shared_box=True)
    for _ in range(8):
        x = batch.trial()
        value, gradient = (scale * (x - centre).square()).sum(1), 2 * scale * (x - centre)
        judged = steps[0](batch, x, value, gradient, LIMITS)
        batch.move(x, gradient, judged.accepted)
        steps[2](batch, steps[1](batch, value, judged, LIMITS))
    return batch.x


@pytest.mark.parametrize("num", [1, 5])
def test_a_step_compiles_without_a_graph_break(num: int) -> None:
    torch.testing.assert_close(rounds(num, compiled=True), rounds(num, compiled=False))
