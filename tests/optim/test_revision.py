"""Objectives that change on the way: the solver goes on from where it is, with what it knows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from advlab import compiled
from advlab.errors import UserError
from advlab.optim import lbfgsb
from advlab.optim.lbfgsb import Progress, Revision, Status

N, WEIGHTS = 40, (0.3, 1.0, 4.0, 2.0, 2.2)
NONE = torch.zeros(0, dtype=torch.int64)


class Path:
    """½(x − b)ᵀA(x − b) + ½w‖x‖² for one weight w after another, each as soon as the last one is solved."""

    def __init__(self, num: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        basis = torch.linalg.qr(torch.randn(num, N, N, generator=generator, dtype=torch.float64))[0]
        curvature = torch.zeros(N, dtype=torch.float64)
        curvature[:6] = torch.logspace(0, 1, 6)
        self.matrix = basis * curvature @ basis.mT
        self.centre = torch.randn(num, N, generator=generator, dtype=torch.float64)
        self.leg = torch.zeros(num, dtype=torch.int64)
        self.calls = torch.zeros(num, dtype=torch.int64)

    def weight(self, rows: Tensor) -> Tensor:
        return torch.tensor(WEIGHTS, dtype=torch.float64)[self.leg[rows]]

    def __call__(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        self.calls[rows] += 1
        r, w = x - self.centre[rows], self.weight(rows)
        product = (self.matrix[rows] @ r[:, :, None]).squeeze(2)
        return (r * product).sum(1) / 2 + w / 2 * x.square().sum(1), product + w[:, None] * x

    def revise(self, progress: Progress) -> Revision:
        ended = (progress.status != Status.RUNNING) & (self.leg[progress.rows] < len(WEIGHTS) - 1)
        places = ended.nonzero().squeeze(1)
        rows, x = progress.rows[places], progress.x[places]
        before = self.weight(rows)
        self.leg[rows] += 1
        shift = self.weight(rows) - before
        value = progress.value[places] + shift / 2 * x.square().sum(1)
        return Revision(places, value, progress.gradient[places] + shift[:, None] * x, shift, NONE)


@pytest.mark.parametrize("max_live", [None, 3])
@pytest.mark.parametrize("history", [1, 4, 10])
def test_a_path_ends_where_its_last_objective_alone_ends(history: int, max_live: int | None) -> None:
    path, start = Path(7), torch.zeros(7, N, dtype=torch.float64)
    found = lbfgsb.minimize(
        path, start, -0.5, 0.5, history, 500, 1e-6, 0, max_live=max_live, revise_objective=path.revise
    )
    assert (path.leg == len(WEIGHTS) - 1).all()
    assert torch.equal(found.evaluations, path.calls)
    alone = lbfgsb.minimize(path, start, -0.5, 0.5, history, 500, 1e-6, 0)
    torch.testing.assert_close(found.x, alone.x, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.fun, alone.fun)
    torch.testing.assert_close(path(found.x, torch.arange(7))[1], found.grad)
    assert (found.status == Status.CONVERGED).all()


def test_what_was_learnt_saves_evaluations() -> None:
    path, start = Path(20), torch.zeros(20, N, dtype=torch.float64)
    options = {"history": 10, "max_iter": 500, "gtol": 1e-5, "ftol": 0}
    found = lbfgsb.minimize(path, start, -2.0, 2.0, **options, revise_objective=path.revise)
    cold, x = torch.zeros(20), start
    for leg in range(len(WEIGHTS)):
        path.leg[:] = leg
        result = lbfgsb.minimize(path, x, -2.0, 2.0, **options)  # the same starts, and nothing learnt
        cold, x = cold + result.evaluations, result.x
    assert found.evaluations.double().mean() < 0.85 * cold.mean()


def test_the_iteration_limit_holds_for_every_objective() -> None:
    path = Path(5)

    start = torch.zeros(5, N)
    found = lbfgsb.minimize(path, start, -0.5, 0.5, max_iter=3, gtol=0, ftol=0, revise_objective=path.revise)
    assert (found.iterations == 3 * len(WEIGHTS)).all()


def test_the_caller_can_stop_a_problem() -> None:
    path = Path(6)

    def revise(progress: Progress) -> Revision:
        empty = progress.value[:0]
        odd = (progress.rows % 2 == 1).nonzero().squeeze(1)
        return Revision(NONE, empty, progress.gradient[:0], empty, odd)

    found = lbfgsb.minimize(path, torch.zeros(6, N, dtype=torch.float64), -0.5, 0.5, revise_objective=revise)
    assert (found.status[1::2] == Status.STOPPED).all()
    assert (found.evaluations[1::2] == 1).all()
    assert (found.status[::2] == Status.CONVERGED).all()


@pytest.mark.parametrize("history", [1, 4])
def test_compiled_loops_follow_the_path_of_the_array_operations(history: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def follow() -> lbfgsb.Result:
        path, start = Path(5), torch.zeros(5, N, dtype=torch.float64)
        return lbfgsb.minimize(path, start, -0.5, 0.5, history, 500, 1e-6, 0, revise_objective=path.revise)

    loops = follow()
    monkeypatch.setattr(compiled, "fits", lambda *_: False)
    arrays = follow()
    torch.testing.assert_close(loops.evaluations, arrays.evaluations, rtol=0.02, atol=1)  # roundings over 100 steps
    torch.testing.assert_close(loops.x, arrays.x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mistake", ["gradient", "shift", "place"])
def test_revisions_of_the_wrong_shape_are_named(mistake: str) -> None:
    def wrong(progress: Progress) -> Revision:
        places = torch.arange(len(progress.rows))
        if mistake == "place":
            places = places + 1
        gradient = progress.gradient[:1] if mistake == "gradient" else progress.gradient
        shift = torch.ones(1 if mistake == "shift" else len(places), dtype=torch.float64)
        return Revision(places, progress.value, gradient, shift, NONE)

    path = Path(4)
    with pytest.raises(UserError, match="revise_objective"):
        lbfgsb.minimize(path, torch.zeros(4, N, dtype=torch.float64), -0.5, 0.5, revise_objective=wrong)
