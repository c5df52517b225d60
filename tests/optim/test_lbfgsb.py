"""The batched solver against SciPy's L-BFGS-B, against optimality conditions, and against its own promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize as scipy_minimize
from torch import Tensor

from advlab import compiled
from advlab.errors import UserError
from advlab.optim import lbfgsb
from advlab.optim.lbfgsb import Status

Values = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """A batch of problems; ``values(x, rows)`` [b] is differentiated by autograd."""

    values: Values
    x0: Tensor
    lower: Tensor
    upper: Tensor

    def __call__(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        values = self.values(x, rows)
        (gradient,) = torch.autograd.grad(values.sum(), x)
        return values.detach(), gradient

    def minimize(self, **options: Any) -> lbfgsb.Result:
        return lbfgsb.minimize(self, self.x0, self.lower, self.upper, **options)

    def scipy(self, row: int, **options: object) -> tuple[float, int]:
        """SciPy's minimum and number of evaluations of one problem, in float64."""

        def fun(x: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = self(torch.from_numpy(x)[None], torch.tensor([row]))
            return value.item(), gradient[0].numpy()

        bounds = list(zip(self.lower[row].tolist(), self.upper[row].tolist(), strict=True))
        answer = scipy_minimize(
            fun, self.x0[row].numpy(), jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 5000, **options}
        )
        return float(answer.fun), int(answer.nfev)


def rosenbrock(x: Tensor, rows: Tensor) -> Tensor:  # noqa: ARG001
    return (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(1)


def beale(x: Tensor, rows: Tensor) -> Tensor:  # noqa: ARG001
    a, b = x.unbind(1)
    return (1.5 - a + a * b) ** 2 + (2.25 - a + a * b**2) ** 2 + (2.625 - a + a * b**3) ** 2


def chained_wood(x: Tensor, rows: Tensor) -> Tensor:  # noqa: ARG001
    a, b, c, d = (x[:, i : x.shape[1] - 3 + i : 2] for i in range(4))
    return (
        100 * (b - a**2) ** 2
        + (1 - a) ** 2
        + 90 * (d - c**2) ** 2
        + (1 - c) ** 2
        + 10 * (b + d - 2) ** 2
        + (b - d) ** 2 / 10
    ).sum(1)


def brown(x: Tensor, rows: Tensor) -> Tensor:  # noqa: ARG001
    """Brown's almost linear function (Moré, Garbow & Hillstrom 1981, no. 27)."""
    linear = x[:, :-1] + x.sum(1, keepdim=True) - (x.shape[1] + 1)
    return linear.square().sum(1) + (x.prod(1) - 1).square()


def trigonometric(x: Tensor, rows: Tensor) -> Tensor:  # noqa: ARG001
    """Moré, Garbow & Hillstrom 1981, no. 26."""
    n = x.shape[1]
    i = torch.arange(1, n + 1).to(x)
    return (n - x.cos().sum(1, keepdim=True) + i * (1 - x.cos()) - x.sin()).square().sum(1)


def hs45(x: Tensor, rows: Tensor) -> Tensor:  # noqa: ARG001
    """Hock & Schittkowski 1981, no. 45: 2 − Πx/120 on 0 ≤ x_i ≤ i, minimum 1 at the upper bounds."""
    return 2 - x.prod(1) / 120


def mlp(n: int, num: int) -> Values:
    generator = torch.Generator().manual_seed(3)
    first, second = (torch.randn(shape, generator=generator) for shape in ((n, 30), (30, 5)))
    centre, target = torch.rand(num, n, generator=generator), torch.arange(num) % 5

    def values(x: Tensor, rows: Tensor) -> Tensor:
        logits = 3 * torch.sigmoid(x @ first.to(x)) @ second.to(x)
        losses = torch.nn.functional.cross_entropy(logits, target[rows], reduction="none")
        return losses + 0.05 * (x - centre[rows].to(x)).square().sum(1)

    return values


def make(name: str, num: int = 8) -> Problem:
    generator = torch.Generator().manual_seed(11)

    def uniform(n: int, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(num, n, generator=generator, dtype=torch.float64)

    def box(n: int, low: float, high: float) -> tuple[Tensor, Tensor]:
        return tuple(torch.full((num, n), v, dtype=torch.float64) for v in (low, high))  # type: ignore[return-value]

    match name:
        case "rosenbrock":  # no local minima but the global one in this box
            return Problem(rosenbrock, uniform(6, 0, 2), *box(6, -0.2, 2.0))
        case "rosenbrock_active":
            return Problem(rosenbrock, uniform(6, -0.5, 0.5), box(6, -0.5, 0)[0], uniform(6, 0.3, 0.8))
        case "beale":
            return Problem(beale, uniform(2, 0.5, 3), *box(2, -0.5, 4.5))
        case "beale_active":
            return Problem(beale, uniform(2, 0.5, 2), *box(2, 0.1, 2.5))
        case "chained_wood":
            return Problem(chained_wood, uniform(20, 0, 1), *box(20, 0.0, 0.9))
        case "brown":
            return Problem(brown, uniform(10, 0.4, 0.6), *box(10, 0.0, 0.98))
        case "trigonometric":
            return Problem(trigonometric, uniform(10, 0.05, 0.15), *box(10, 0.0, 0.2))
        case "hs45":
            upper = torch.arange(1, 6, dtype=torch.float64).expand(num, 5).clone()
            return Problem(hs45, uniform(5, 0.5, 1), torch.zeros(num, 5, dtype=torch.float64), upper)
        case "mlp":
            return Problem(mlp(20, num), uniform(20, 0, 1), *box(20, 0.0, 1.0))
    raise ValueError(name)


PROBLEMS = [
    *(
        "rosenbrock",
        "rosenbrock_active",
        "beale",
        "beale_active",
        "chained_wood",
        "brown",
        "trigonometric",
        "hs45",
        "mlp",
    )
]


def residual(result: lbfgsb.Result, problem: Problem) -> Tensor:
    """[B] the KKT error ‖P(x − g) − x‖_∞, from a fresh evaluation."""
    _, gradient = problem(result.x, torch.arange(len(result.x)))
    lower, upper = problem.lower.to(result.x), problem.upper.to(result.x)
    return ((result.x - gradient).clamp(lower, upper) - result.x).abs().amax(1)


def quadratic(seed: int, num: int, n: int, condition: float) -> tuple[Problem, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(num, n, n, generator=generator, dtype=torch.float64))[0]
    matrix = basis * torch.logspace(0, float(np.log10(condition)), n, dtype=torch.float64) @ basis.mT
    linear = 5 * torch.randn(num, n, generator=generator, dtype=torch.float64)
    lower, upper = -torch.rand(2, num, n, generator=generator, dtype=torch.float64)
    problem = Problem(
        lambda x, rows: (
            0.5 * (x * (matrix.to(x)[rows] @ x[:, :, None]).squeeze(2)).sum(1) - (linear.to(x)[rows] * x).sum(1)
        ),
        torch.zeros(num, n, dtype=torch.float64),
        lower,
        -upper,
    )
    return problem, matrix, linear


@pytest.mark.parametrize("name", PROBLEMS)
def test_reaches_what_scipy_reaches(name: str) -> None:
    problem = make(name)
    result = problem.minimize(max_iter=2000, ftol=1e-14, gtol=1e-7)
    reference, scipy_evaluations = zip(*(problem.scipy(b, ftol=1e-14, gtol=1e-7) for b in range(8)), strict=True)
    assert (result.status == Status.CONVERGED).all()
    assert (residual(result, problem) < 1e-5).all()
    torch.testing.assert_close(result.fun, torch.tensor(reference, dtype=torch.float64), rtol=1e-8, atol=1e-8)
    assert result.evaluations.double().mean() <= 1.5 * np.mean(scipy_evaluations) + 2


@pytest.mark.parametrize("name", PROBLEMS)
def test_float32_stops_at_the_bottom(name: str) -> None:
    """Asked for more than float32 can give, the search ends soon and at the bottom."""
    problem = make(name)
    exact = problem.minimize(max_iter=2000, ftol=1e-14, gtol=1e-8).fun
    result = lbfgsb.minimize(problem, problem.x0.float(), problem.lower, problem.upper, max_iter=2000, ftol=0, gtol=0)
    assert ((result.status == Status.CONVERGED) | (result.status == Status.LINE_SEARCH_FAILED)).all()
    assert result.x.dtype == result.fun.dtype == result.grad.dtype == torch.float32
    torch.testing.assert_close(result.fun.double(), exact, rtol=1e-4, atol=1e-5)
    assert result.evaluations.max() < 400


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), num=st.integers(1, 5), n=st.integers(1, 30), log_condition=st.floats(0, 3))
def test_box_quadratics_satisfy_kkt(seed: int, num: int, n: int, log_condition: float) -> None:
    problem, matrix, linear = quadratic(seed, num, n, 10**log_condition)
    result = problem.minimize(max_iter=3000, gtol=1e-7, ftol=0)
    gradient = (matrix @ result.x[:, :, None]).squeeze(2) - linear
    error = (result.x - gradient).clamp(problem.lower, problem.upper) - result.x
    assert error.abs().max() < 1e-5
    assert ((problem.lower <= result.x) & (result.x <= problem.upper)).all()


def test_few_evaluations_per_iteration() -> None:
    result = quadratic(0, 50, 60, 1e2)[0].minimize()
    assert (result.evaluations.sum() / result.iterations.sum()).item() < 1.2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num", [1, 3, 8])
def test_rows_do_not_depend_on_their_mates(num: int, dtype: torch.dtype) -> None:
    """To the bit: so far as the objective's rows are their own. Those of a matrix product round by their number."""
    problem = make("mlp")

    def row_by_row(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        answers = [problem(x[i : i + 1].clone(), rows[i : i + 1]) for i in range(len(x))]
        values, gradients = zip(*answers, strict=True)
        return torch.cat(values), torch.cat(gradients)

    order = torch.randperm(8, generator=torch.Generator().manual_seed(num))[:num]
    start = problem.x0.to(dtype)
    whole = lbfgsb.minimize(row_by_row, start, 0.0, 1.0)
    part = lbfgsb.minimize(lambda x, rows: row_by_row(x, order[rows]), start[order], 0.0, 1.0)
    for name in lbfgsb.Result.__slots__:
        assert torch.equal(getattr(part, name), getattr(whole, name)[order]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num", [1, 3, 8])
def test_rows_that_round_by_their_number_end_equally_low(num: int, dtype: torch.dtype) -> None:
    """In float32 points of equal value lie apart, by the root of the rounding over the curvature."""
    problem = make("mlp")
    whole = lbfgsb.minimize(problem, problem.x0.to(dtype), 0.0, 1.0)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(num))[:num]
    part = lbfgsb.minimize(lambda x, rows: problem(x, order[rows]), problem.x0[order].to(dtype), 0.0, 1.0)
    low, other = (problem(x.double(), order)[0] for x in (whole.x[order], part.x))
    logits = 50  # the largest, whose rounding is that of the loss
    torch.testing.assert_close(other, low, rtol=0, atol=4 * logits * torch.finfo(dtype).eps)
    if dtype == torch.float64:
        torch.testing.assert_close(part.x, whole.x[order], rtol=0, atol=1e-10)


@pytest.mark.parametrize("max_live", [1, 3, 7])
@pytest.mark.parametrize("shared_box", [True, False])
def test_waiting_problems_get_the_same_answers(max_live: int, shared_box: bool) -> None:
    problem = make("mlp")
    upper = problem.upper[:1] if shared_box else problem.upper * torch.linspace(0.5, 1, 8)[:, None]
    whole = lbfgsb.minimize(problem, problem.x0, problem.lower[:1], upper)
    live = lbfgsb.minimize(problem, problem.x0, problem.lower[:1], upper, max_live=max_live)
    torch.testing.assert_close(live.x, whole.x, rtol=0, atol=1e-6)
    torch.testing.assert_close(live.iterations, whole.iterations)
    torch.testing.assert_close(live.evaluations, whole.evaluations)


@pytest.mark.parametrize("live", [7, 100])
@pytest.mark.parametrize("history", [1, 2, 6])
@pytest.mark.parametrize("n", [1, 3, 5, 25])
def test_compiled_loops_do_what_the_array_operations_do(n: int, history: int, live: int) -> None:
    """Where two steps were along one variable, whether the pair is kept is a matter of rounding: one problem in 150."""
    problem, _, _ = quadratic(0, 100, n, 100.0)
    loops = problem.minimize(history=history, max_live=live, max_iter=6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "fits", lambda *_: False)
        arrays = problem.minimize(history=history, max_live=live, max_iter=6)
    alike = (loops.evaluations == arrays.evaluations) & ((loops.x - arrays.x).abs() < 1e-7).all(1)
    alike &= ((loops.grad - arrays.grad).abs() < 1e-5).all(1)
    assert alike.double().mean() > 0.95


@pytest.mark.parametrize("max_live", [None, 3])
def test_evaluations_are_counted_and_feasible_and_finished_problems_leave(max_live: int | None) -> None:
    problem, calls = make("rosenbrock_active"), torch.zeros(8, dtype=torch.int64)

    def fun(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        assert len(rows.unique()) == len(rows) == len(x) <= (max_live or 8)
        assert ((problem.lower[rows] <= x) & (x <= problem.upper[rows])).all()
        calls[rows] += 1
        return problem(x, rows)

    result = lbfgsb.minimize(fun, problem.x0, problem.lower, problem.upper, max_live=max_live)
    torch.testing.assert_close(result.evaluations, calls)
    assert len(calls.unique()) > 1
    values, gradients = problem(result.x, torch.arange(8))
    torch.testing.assert_close(result.fun, values)
    torch.testing.assert_close(result.grad, gradients)


def test_budgets_are_kept() -> None:
    problem = make("rosenbrock")
    by_iterations = problem.minimize(max_iter=3)
    assert (by_iterations.iterations == 3).all()
    assert (by_iterations.status == Status.MAX_ITER).all()
    by_evaluations = problem.minimize(max_evaluations=5)
    assert (by_evaluations.evaluations == 5).all()
    assert (by_evaluations.status == Status.MAX_EVALUATIONS).all()
    at_once = problem.minimize(max_iter=0)
    torch.testing.assert_close(at_once.x, problem.x0)
    assert (at_once.evaluations == 1).all()


def test_infinite_bounds() -> None:
    problem = make("rosenbrock")
    result = lbfgsb.minimize(problem, problem.x0, -torch.inf, torch.inf, max_iter=500, gtol=1e-8, ftol=0)
    torch.testing.assert_close(result.x, torch.ones_like(result.x))


def test_half_infinite_bounds() -> None:
    lower = torch.tensor([-torch.inf, 1.0, -torch.inf])
    upper = torch.tensor([-2.0, torch.inf, torch.inf])
    result = lbfgsb.minimize(lambda x, _: (x.square().sum(1), 2 * x), torch.full((4, 3), 5.0), lower, upper)
    torch.testing.assert_close(result.x, torch.tensor([[-2.0, 1.0, 0.0]]).expand(4, 3))


def test_equal_bounds_fix_variables() -> None:
    problem, _, _ = quadratic(4, 3, 12, 10)
    fixed = torch.arange(12) % 2 == 0
    upper = torch.where(fixed, problem.lower, problem.upper)
    result = lbfgsb.minimize(problem, problem.x0, problem.lower, upper)
    torch.testing.assert_close(result.x[:, fixed], problem.lower[:, fixed], rtol=0, atol=0)
    pinned = lbfgsb.minimize(problem, problem.x0, problem.lower, problem.lower)
    torch.testing.assert_close(pinned.x, problem.lower, rtol=0, atol=0)
    assert (pinned.evaluations == 1).all()


def test_a_start_outside_the_box_is_projected() -> None:
    result = lbfgsb.minimize(lambda x, _: (x.sum(1), torch.ones_like(x)), torch.full((2, 3), 9.0), 0.0, 1.0, max_iter=0)
    torch.testing.assert_close(result.x, torch.ones(2, 3))


def test_broadcasting() -> None:
    centre = torch.linspace(-1, 2, 12).view(4, 3)
    result = lbfgsb.minimize(
        lambda x, rows: ((x - centre[rows]).square().sum(1), 2 * (x - centre[rows])),
        torch.zeros(3),
        torch.zeros(4, 1),
        torch.tensor(1.0),
    )
    torch.testing.assert_close(result.x, centre.clamp(0, 1))


def test_no_problems() -> None:
    result = lbfgsb.minimize(lambda x, _: (x.sum(1), x), torch.zeros(0, 3), 0.0, 1.0)
    assert result.x.shape == (0, 3)
    assert len(result.fun) == 0


def test_constant_and_linear_objectives() -> None:
    constant = lbfgsb.minimize(lambda x, _: (x[:, 0] * 0 + 7, x * 0), torch.rand(2, 3), 0.0, 1.0)
    assert (constant.status == Status.CONVERGED).all()
    assert (constant.evaluations == 1).all()
    linear = lbfgsb.minimize(lambda x, _: (1e-6 * x.sum(1), x * 0 + 1e-6), torch.rand(2, 3), -1.0, 1.0, gtol=0)
    torch.testing.assert_close(linear.x, torch.full((2, 3), -1.0))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_rows_that_are_never_finite_end_where_they_start(bad: float) -> None:
    problem = make("mlp")

    def fun(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        values, gradients = problem(x, rows)
        return torch.where(rows % 2 == 0, bad, values), torch.where(rows[:, None] % 2 == 0, torch.nan, gradients)

    result = lbfgsb.minimize(fun, problem.x0, 0.0, 1.0)
    assert (result.status[::2] == Status.NONFINITE).all()
    torch.testing.assert_close(result.x[::2], problem.x0[::2])
    assert result.grad.isfinite().all()
    healthy = lbfgsb.minimize(problem, problem.x0, 0.0, 1.0)
    torch.testing.assert_close(result.x[1::2], healthy.x[1::2], rtol=0, atol=1e-6)
    torch.testing.assert_close(result.status[1::2], healthy.status[1::2])


@pytest.mark.parametrize("broken", ["value", "gradient"])
def test_a_row_backs_off_where_its_objective_is_not_finite(broken: str) -> None:
    """−log(x) + x + NaN beyond the wall at x = 2, reached by the first step; the minimum is x = 1."""

    def fun(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001
        values, gradients = (5 * x - 5 * x.log()).sum(1), 5 - 5 / x
        beyond = (x > 2).any(1)
        if broken == "value":
            return torch.where(beyond, torch.nan, values), gradients
        return values, torch.where(beyond[:, None], torch.inf, gradients)

    result = lbfgsb.minimize(fun, torch.full((3, 4), 0.02, dtype=torch.float64), 1e-3, 50.0)
    assert (result.status == Status.CONVERGED).all()
    torch.testing.assert_close(result.x, torch.ones(3, 4, dtype=torch.float64), rtol=0, atol=1e-4)


@pytest.mark.parametrize("scale", [1e-30, 1e10, 1e20, 1e37])
@pytest.mark.parametrize("bound", [1.0, torch.inf])
def test_extreme_scales_stay_feasible_and_finite(scale: float, bound: float) -> None:
    curvature = torch.linspace(0.1, 10, 30).view(6, 5)

    def fun(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        assert x.isfinite().all()
        assert (x.abs() <= bound).all()
        pull = scale * curvature[rows] * (x - 0.3)
        return (pull * (x - 0.3)).sum(1), 2 * pull

    start = torch.linspace(-0.9, 0.9, 30).view(6, 5)
    values, _ = fun(start, torch.arange(6))
    result = lbfgsb.minimize(fun, start, -bound, bound)
    assert result.x.isfinite().all()
    assert (result.fun <= values).all()
    if scale == 1e10:
        torch.testing.assert_close(result.x, torch.full((6, 5), 0.3), rtol=0, atol=1e-5)


def test_a_kink_ends_the_search_without_harm() -> None:
    def fun(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001
        return x.abs().sum(1) + (x - 0.3).abs().sum(1) * 2, x.sign() + 2 * (x - 0.3).sign()

    result = lbfgsb.minimize(fun, torch.full((2, 1), 0.9, dtype=torch.float64), -1.0, 1.0)
    assert (result.status != Status.RUNNING).all()
    torch.testing.assert_close(result.x, torch.full((2, 1), 0.3, dtype=torch.float64), rtol=0, atol=1e-5)


def test_the_callers_tensors_stay_untouched() -> None:
    problem = make("rosenbrock_active")
    kept: list[tuple[Tensor, Tensor, Tensor]] = []

    def fun(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        kept.extend((tensor, tensor.clone(), rows) for tensor in (x, rows))
        values, gradients = problem(x, rows)
        kept.extend((tensor, tensor.clone(), rows) for tensor in (values, gradients))
        return values, gradients

    before = [tensor.clone() for tensor in (problem.x0, problem.lower, problem.upper)]
    lbfgsb.minimize(fun, problem.x0, problem.lower, problem.upper, max_live=3)
    for tensor, copy in zip((problem.x0, problem.lower, problem.upper), before, strict=True):
        assert torch.equal(tensor, copy)
    assert all(torch.equal(tensor, copy) for tensor, copy, _ in kept)


X0 = torch.zeros(2, 3)
MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "crossing bounds": ({"lower": 1.0, "upper": torch.tensor([2.0, 2.0, 0.5])}, "lower exceeds upper at"),
    "shapes": ({"lower": torch.zeros(4), "upper": 1.0}, "must broadcast to"),
    "no batch axis": ({"x0": torch.zeros(3)}, "must broadcast to"),
    "integers": ({"x0": torch.zeros(2, 3, dtype=torch.int64)}, "x0 has dtype torch.int64; give float32 or float64"),
    "half precision": ({"x0": torch.zeros(2, 3).half()}, "x0 has dtype torch.float16; give float32 or float64"),
    "no variables": ({"x0": torch.zeros(2, 0)}, "must broadcast to"),
    "NaN start": ({"x0": torch.full((2, 3), torch.nan)}, "NaN"),
    "NaN bound": ({"upper": torch.nan}, "NaN"),
    "history": ({"history": 0}, "history is 0"),
    "max_iter": ({"max_iter": -1}, "max_iter is -1"),
    "gtol": ({"gtol": -1.0}, "gtol is -1"),
    "ftol": ({"ftol": float("nan")}, "ftol is nan"),
    "max_evaluations": ({"max_evaluations": 0}, "max_evaluations is 0"),
    "max_live": ({"max_live": 0}, "max_live is 0"),
    "values": ({"fun": lambda x, _: (x, x)}, "fun returned shapes"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(mistake: str) -> None:
    changes, message = MISTAKES[mistake]
    arguments: dict[str, Any] = {"fun": lambda x, _: (x.sum(1), x), "x0": X0, "lower": 0.0, "upper": 1.0, **changes}
    with pytest.raises(UserError, match=message) as error:
        lbfgsb.minimize(**arguments)
    assert str(error.value).count("\n") == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_the_gpu() -> None:
    problem, matrix, linear = quadratic(1, 20, 50, 100)
    matrix, linear = matrix.cuda(), linear.cuda()

    def fun(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        product = (matrix[rows] @ x[:, :, None]).squeeze(2)
        return (x * (product / 2 - linear[rows])).sum(1), product - linear[rows]

    result = lbfgsb.minimize(fun, problem.x0.cuda(), problem.lower, problem.upper)
    torch.testing.assert_close(result.fun.cpu(), problem.minimize().fun)


@pytest.mark.parametrize(
    "write", [lambda x: x.add_(100), lambda x: x.clamp_(0.5, 0.6), lambda x: np.add(x.numpy(), 100, out=x.numpy())]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_objectives_may_write_into_what_they_are_given(write: Callable[[Tensor], Any], dtype: torch.dtype) -> None:
    def fun(x: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = (x - 0.3).square().sum(1), 2 * (x - 0.3)
        write(x)
        return value, gradient

    found = lbfgsb.minimize(fun, torch.full((3, 4), 1.5, dtype=dtype), 0.0, 2.0)
    assert (found.status == lbfgsb.Status.CONVERGED).all()
    torch.testing.assert_close(found.x, torch.full_like(found.x, 0.3), rtol=0, atol=1e-4)


def test_revisions_must_not_write_into_the_iterates() -> None:
    def revise(progress: lbfgsb.Progress) -> lbfgsb.Revision:
        progress.x.add_(1)
        none = torch.zeros(0, dtype=torch.int64)
        return lbfgsb.Revision(none, progress.value[:0], progress.gradient[:0], progress.value[:0], none)

    with pytest.raises(UserError, match="revise_objective wrote into the x"):
        lbfgsb.minimize(
            lambda x, _: (x.square().sum(1), 2 * x), torch.ones(2, 3), revise_objective=revise, lower=-1.0, upper=2.0
        )
