"""The methods that benchmarks/attack.py compares, each as images [B, C, H, W], labels [B] → candidates."""

from __future__ import annotations

import copy
import functools
import importlib
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.nn import functional

from advlab.attacks.minimum_norm import minimum_norm
from advlab.errors import UserError


@dataclass
class Counted:
    """A model that counts the rows it evaluates; a forward pass counts once, with or without its backward pass."""

    model: nn.Module
    rows: int = 0
    parameters: Callable[[], object] = field(init=False)

    def __post_init__(self) -> None:
        self.parameters = self.model.parameters

    def __call__(self, images: Tensor) -> Tensor:
        self.rows += len(images)
        return self.model(images)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Candidates [B, C, H, W] and the evaluations spent on all of them together."""

    candidates: Tensor
    evaluations: int


Method = Callable[[nn.Module, Tensor, Tensor], Outcome]


def _ours(
    model: nn.Module, images: Tensor, labels: Tensor, *, max_evaluations: int, dtype: torch.dtype = torch.float32
) -> Outcome:
    if dtype != torch.float32:
        model = copy.deepcopy(model).to(dtype)
    found = minimum_norm(model, images.to(dtype), labels, max_evaluations=max_evaluations, batch_size=500)
    return Outcome(found.images, int(found.evaluations.sum()))


def _adv_lib(model: nn.Module, images: Tensor, labels: Tensor, *, attack: str, **options: object) -> Outcome:
    try:
        importlib.import_module("visdom")
    except ImportError:  # adv-lib imports its optional plotting client on the way to every attack
        sys.modules["visdom"] = types.ModuleType("visdom")
    counted = Counted(model)
    run = getattr(importlib.import_module("adv_lib.attacks"), attack)
    return Outcome(run(counted, images, labels, **options), counted.rows)


def _foolbox(model: nn.Module, images: Tensor, labels: Tensor, *, attack: str, **options: object) -> Outcome:
    import foolbox

    counted = _CountedModule(model).eval()
    wrapped = foolbox.PyTorchModel(counted, bounds=(0, 1), device=images.device)
    raw, _, _ = getattr(foolbox.attacks, attack)(**options)(wrapped, images, labels, epsilons=None)
    return Outcome(raw, counted.rows)


class _CountedModule(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.rows = 0

    def forward(self, images: Tensor) -> Tensor:
        self.rows += len(images)
        return self.model(images)


def _scipy(model: nn.Module, images: Tensor, labels: Tensor, *, rivals: int, bisections: int = 10) -> Outcome:
    """The paper's penalised form by SciPy's L-BFGS-B, one image at a time, towards so many of the strongest classes."""
    counted = Counted(model)
    candidates = images.clone()
    with torch.no_grad():
        logits = model(images)
    for row in (logits.argmax(1) == labels).nonzero().squeeze(1).tolist():
        clean, best = images[row].double().flatten().numpy(), np.inf
        others = logits[row].scatter(0, labels[row], -torch.inf)
        for target in others.topk(min(rivals, len(others) - 1)).indices[:, None]:
            low, high = 1e-4, 1e2
            for _ in range(bisections):
                c = (low * high) ** 0.5
                solved = minimize(
                    functools.partial(_penalised, counted, images[row].shape, clean, target, c),
                    clean,
                    jac=True,
                    method="L-BFGS-B",
                    bounds=[(0, 1)] * len(clean),
                    options={"maxiter": 100},
                )
                x = torch.from_numpy(solved.x).float().view(1, *images[row].shape)
                with torch.no_grad():
                    reached = counted(x).argmax(1) == target
                low, high = (c, high) if reached else (low, c)
                distance = float(np.linalg.norm(solved.x - clean))
                if reached and distance < best:
                    best, candidates[row] = distance, x[0]
    return Outcome(candidates, counted.rows)


def _penalised(
    model: Counted, shape: torch.Size, clean: np.ndarray, target: Tensor, c: float, flat: np.ndarray
) -> tuple[float, np.ndarray]:
    x = torch.from_numpy(flat).float().view(1, *shape).requires_grad_()
    loss = functional.cross_entropy(model(x), target)
    (gradient,) = torch.autograd.grad(loss, x)
    value = float(loss.detach()) + c * float(((flat - clean) ** 2).sum())
    return value, gradient.double().flatten().numpy() + 2 * c * (flat - clean)


METHODS: dict[str, Method] = {
    "advlab-64": functools.partial(_ours, max_evaluations=64),
    "advlab-96": functools.partial(_ours, max_evaluations=96),
    "advlab-160": functools.partial(_ours, max_evaluations=160),
    "advlab-220": functools.partial(_ours, max_evaluations=220),
    "advlab-96-float64": functools.partial(_ours, max_evaluations=96, dtype=torch.float64),
    "alma-100": functools.partial(_adv_lib, attack="alma", num_steps=100),
    "alma-1000": functools.partial(_adv_lib, attack="alma", num_steps=1000),
    "ddn-1000": functools.partial(_adv_lib, attack="ddn", steps=1000, levels=None),
    "fmn-1000": functools.partial(_adv_lib, attack="fmn", norm=2, steps=1000),
    "cw-9x111": functools.partial(
        _adv_lib, attack="carlini_wagner_l2", binary_search_steps=9, max_iterations=111, initial_const=0.1
    ),
    "cw-9x1000": functools.partial(_adv_lib, attack="carlini_wagner_l2", binary_search_steps=9, max_iterations=1000),
    "foolbox-ddn-1000": functools.partial(_foolbox, attack="DDNAttack", steps=1000),
    "foolbox-fmn-1000": functools.partial(_foolbox, attack="L2FMNAttack", steps=1000),
    "foolbox-cw-9x111": functools.partial(
        _foolbox, attack="L2CarliniWagnerAttack", binary_search_steps=9, steps=111, initial_const=0.1
    ),
    "scipy-runner-up": functools.partial(_scipy, rivals=1),
    "scipy-nearest": functools.partial(_scipy, rivals=9),
}
"""By the name given to ``--methods``; names that start with ``advlab`` are ours."""


def resolve(name: str) -> Method:
    """The method called ``name``.

    Raises:
        UserError: an unknown name.
    """
    if name not in METHODS:
        raise UserError(f"unknown method {name!r}; choose among {', '.join(METHODS)}.")
    return METHODS[name]
