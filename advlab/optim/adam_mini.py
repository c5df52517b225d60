"""Adam with one learning rate per filter: Zhang, Chen, Li, Ding, Wu, Ye, Luo & Sun, "Adam-mini: use fewer learning
rates to gain more" (2024), arXiv 2406.16793.

Adam divides every coordinate of the step by its own root mean square. So its steps leave the space that the gradients
span, and give weight to directions in which the data hardly vary. With one divisor for all numbers of a filter the
steps stay in that space, and one number per weight is kept instead of two.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


class AdamMini(torch.optim.Optimizer):
    """For weights whose filters lie along the last axis.

    DTensors may be sharded along any other axis: every process then works on its own part, with no communication.

    Args:
        weights: the parameters.
        lr: the learning rate.
        betas: decay of the means of the gradient, and of a filter's mean squared gradient.
        eps: added to the root of the latter.
    """

    def __init__(
        self,
        weights: Iterable[torch.nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(weights, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all weights that have a gradient; only the running means are allocated."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            first, second = group["betas"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["step"] = torch.zeros(())
                    state["mean"] = torch.zeros_like(weight)
                    state["square"] = torch.zeros_like(weight.mean(-1, keepdim=True))
                state["step"] += 1
                count = state["step"].item()
                gradient, mean, square = _own(weight.grad), _own(state["mean"]), _own(state["square"])
                mean.lerp_(gradient, 1 - first)
                energy = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True).square_() / weight.shape[-1]
                square.lerp_(energy, 1 - second)
                divisor = (square / (1 - second**count)).sqrt_().add_(group["eps"])
                _own(weight).addcdiv_(mean, divisor, value=-group["lr"] / (1 - first**count))
        return loss


def _own(value: Tensor) -> Tensor:
    return value.to_local() if isinstance(value, DTensor) else value
