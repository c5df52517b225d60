"""The compact inverse Hessian against the dense BFGS recursion."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from advlab.optim.batch import Batch
from advlab.optim.curvature import Curvature
from advlab.optim.step import Limits, direct, judge, settle

N = 7
Pair = tuple[Tensor, Tensor]


def learn(curvature: Curvature, s: Tensor, y: Tensor, which: Tensor) -> None:
    curvature.next_slot().copy_(torch.stack((y, s), 1))
    curvature.learn(which)


def apply(curvature: Curvature, v: Tensor) -> Tensor:
    """H v [B, N]."""
    y_v, s_v = curvature.products(v[:, None, :])
    return curvature.gamma[:, None] * v - curvature.correction(y_v[:, 0], s_v[:, 0])


def dense(curvature: Curvature) -> Tensor:
    """H [B, N, N]."""
    num = len(curvature.gamma)
    eye = torch.eye(N, dtype=torch.float64)
    return torch.stack([apply(curvature, column.expand(num, N)) for column in eye], 2)


def bfgs(pairs: list[Pair], gamma: float) -> Tensor:
    """The BFGS recursion over chronological pairs (Nocedal & Wright, equation 6.17)."""
    eye = torch.eye(N, dtype=torch.float64)
    h = gamma * eye
    for s, y in pairs:
        rho = 1 / (s @ y)
        v = eye - rho * torch.outer(y, s)
        h = v.T @ h @ v + rho * torch.outer(s, s)
    return h


def random_pairs(num: int, generator: torch.Generator) -> Pair:
    s = torch.randn(num, N, generator=generator, dtype=torch.float64)
    y = s + 0.4 * torch.randn(num, N, generator=generator, dtype=torch.float64)
    return s, torch.where((s * y).sum(1, keepdim=True) > 0, y, s)


@pytest.mark.parametrize("history", [1, 2, 3, 5])
def test_it_is_bfgs_over_the_newest_pairs_in_chronological_order(history: int) -> None:
    generator = torch.Generator().manual_seed(history)
    num = 4
    curvature = Curvature.allocate(num, history, torch.zeros(N, dtype=torch.float64))
    slots: list[list[Pair | None]] = [[] for _ in range(num)]
    newest: list[Pair | None] = [None] * num
    for _ in range(4 * history + 3):
        s, y = random_pairs(num, generator)
        which = torch.rand(num, generator=generator) < 0.7
        learn(curvature, s, y, which)
        for b in range(num):
            slots[b].append((s[b], y[b]) if which[b] else None)
            newest[b] = (s[b], y[b]) if which[b] else newest[b]
        h = dense(curvature)
        for b in range(num):
            last = newest[b]
            gamma = 1.0 if last is None else float((last[0] @ last[1]) / (last[1] @ last[1]))
            pairs = [pair for pair in slots[b][-history:] if pair is not None]
            torch.testing.assert_close(h[b], bfgs(pairs, gamma), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_secant_equation_holds_long_after_the_memory_is_full(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    curvature = Curvature.allocate(3, 4, torch.zeros(N, dtype=dtype))
    everyone = torch.ones(3, dtype=torch.bool)
    for _ in range(500):
        s, y = (tensor.to(dtype) for tensor in random_pairs(3, generator))
        learn(curvature, s, y, everyone)
    tolerance = 1e-3 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(apply(curvature, y), s, rtol=tolerance, atol=tolerance)
    if dtype == torch.float64:
        h = dense(curvature)
        torch.testing.assert_close(torch.linalg.solve(h, s), y, rtol=1e-8, atol=1e-8)  # B s = y
        torch.testing.assert_close(h, h.mT, rtol=1e-9, atol=1e-9)
        assert (torch.linalg.eigvalsh(h) > 0).all()


def test_the_secant_equation_holds_inside_the_solver() -> None:
    """Rosenbrock in a box, more rounds than the memory has slots; pairs live on the variables that moved."""
    generator = torch.Generator().manual_seed(1)
    lower, upper = torch.full((1, N), -1.0, dtype=torch.float64), torch.full((1, N), 0.7, dtype=torch.float64)
    start = torch.rand(5, N, generator=generator, dtype=torch.float64) * 1.7 - 1
    batch = Batch.start(start, lower, upper, history=3, shared_box=True)
    limits = Limits(max_iter=100, max_evaluations=1000, max_line_search=20, gtol=0, ftol=0)
    checked = 0
    for _ in range(15):
        x = batch.trial().requires_grad_()
        values = (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(1)
        (gradients,) = torch.autograd.grad(values.sum(), x)
        judged = judge(batch, x.detach(), values.detach(), gradients, limits)
        batch.move(x.detach(), gradients, judged.accepted)
        direct(batch, settle(batch, values.detach(), judged, limits))
        curvature = batch.curvature
        y, s = curvature.pairs[:, curvature.slot].unbind(1)
        held = curvature.t[:, curvature.slot, curvature.slot] > 0
        torch.testing.assert_close(apply(curvature, y)[held], s[held], rtol=1e-7, atol=1e-10)
        assert (y[s == 0] == 0).all()
        checked += int(held.sum())
    assert checked > 40


@pytest.mark.parametrize("history", [1, 2, 3, 5])
def test_a_multiple_of_the_identity_can_be_added_to_every_hessian(history: int) -> None:
    """H is then what it would be, had every pair been (s, y + σs) from the start; concave pairs are left out."""
    generator = torch.Generator().manual_seed(history)
    num = 6
    curvature = Curvature.allocate(num, history, torch.zeros(N, dtype=torch.float64), shiftable=True)
    slots: list[list[Pair | None]] = [[] for _ in range(num)]
    total = torch.zeros(num, dtype=torch.float64)
    dropped = 0
    for round_ in range(4 * history + 6):
        s, y = random_pairs(num, generator)
        y = y + total[:, None] * s
        which = (torch.rand(num, generator=generator) < 0.7) & ((s * y).sum(1) > 0)
        learn(curvature, s, y, which)
        for b in range(num):
            slots[b].append((s[b], y[b]) if which[b] else None)
        if round_ % 3 == 2:
            places = torch.randperm(num, generator=generator)[:4]
            by = torch.where(torch.rand(4, generator=generator) < 0.5, 0.8, -1.0).double()
            curvature.shift(places, by)
            total[places] += by
            for b, sigma in zip(places.tolist(), by, strict=True):
                for age, pair in enumerate(slots[b][-history:], start=-min(history, len(slots[b]))):
                    if pair is not None:
                        shifted = pair[1] + sigma * pair[0]
                        convex = bool(pair[0] @ shifted > 0)
                        slots[b][age] = (pair[0], shifted) if convex else None
                        dropped += not convex
        h = dense(curvature)
        for b in range(num):
            pairs = [pair for pair in slots[b][-history:] if pair is not None]
            if pairs:
                last_s, last_y = pairs[-1]
                expected = bfgs(pairs, float((last_s @ last_y) / (last_y @ last_y)))
                torch.testing.assert_close(h[b], expected, rtol=1e-7, atol=1e-7)
                torch.testing.assert_close(h[b] @ last_y, last_s, rtol=1e-7, atol=1e-7)
    assert dropped > 0


def test_forgetting_leaves_the_identity() -> None:
    curvature = Curvature.allocate(2, 3, torch.zeros(N, dtype=torch.float64))
    generator = torch.Generator().manual_seed(2)
    for _ in range(4):
        learn(curvature, *random_pairs(2, generator), torch.ones(2, dtype=torch.bool))
    kept = dense(curvature)[1]
    curvature.forget(torch.tensor([True, False]))
    torch.testing.assert_close(dense(curvature)[0], torch.eye(N, dtype=torch.float64))
    torch.testing.assert_close(dense(curvature)[1], kept)
    assert curvature.empty.tolist() == [True, False]
