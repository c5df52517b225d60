"""`lbfgsb.minimize` by SciPy, one problem at a time: slow, to check the batched solver against."""

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from advlab.optim.lbfgsb import Objective, Result, Status


def minimize(
    fun: Objective,
    x0: Tensor,
    lower: Tensor | float,
    upper: Tensor | float,
    history: int = 10,
    max_iter: int = 100,
    gtol: float = 1e-5,
    ftol: float = 1e-9,
) -> Result:
    """Minimise B independent functions of n variables within a box by ``scipy.optimize``'s L-BFGS-B.

    Arguments and result are those of ``lbfgsb.minimize``. SciPy works in float64; ``fun`` is called with single
    rows of the dtype and on the device of ``x0``.
    """
    size = torch.broadcast_shapes(x0.shape, torch.as_tensor(lower).shape, torch.as_tensor(upper).shape)
    low, high = (torch.as_tensor(bound, dtype=x0.dtype, device=x0.device).expand(size) for bound in (lower, upper))
    x = x0.expand(size).clamp(low, high).clone()
    result = Result.unsolved(x)
    for row in range(len(x)):
        rows = torch.tensor([row], device=x.device)

        def one(point: np.ndarray, rows: Tensor = rows, row: int = row) -> tuple[float, np.ndarray]:
            inside = torch.as_tensor(point, dtype=x.dtype, device=x.device).clamp(low[row], high[row])
            value, gradient = fun(inside[None], rows)
            return float(value), gradient[0].double().cpu().numpy()

        found = scipy.optimize.minimize(
            one,
            x[row].double().cpu().numpy(),
            jac=True,
            method="L-BFGS-B",
            bounds=scipy.optimize.Bounds(low[row].double().cpu().numpy(), high[row].double().cpu().numpy()),
            options={"maxcor": history, "maxiter": max_iter, "gtol": gtol, "ftol": ftol, "maxfun": 10**9},
        )
        result.x[row] = torch.as_tensor(found.x, dtype=x.dtype, device=x.device).clamp(low[row], high[row])
        result.fun[row] = float(found.fun)
        result.grad[row] = torch.as_tensor(found.jac, dtype=x.dtype, device=x.device)
        result.iterations[row] = int(found.nit)
        result.evaluations[row] = int(found.nfev)
        result.status[row] = {0: Status.CONVERGED, 1: Status.MAX_ITER}.get(found.status, Status.LINE_SEARCH_FAILED)
    return result
