"""The methods that benchmarks/attack.py compares, each as images [B, C, H, W], labels [B] → candidates."""

from __future__ import annotations

import copy
import functools
import importlib
import itertools
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.nn import functional

from advlab.attacks.minimum_norm import minimum_norm
from advlab.errors import UserError


class Counted(nn.Module):
    """A model that counts the rows it evaluates.

    A forward pass counts once, with or without its backward pass; each further backward pass through it, as FAB and
    DeepFool take one per class, counts once more.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.rows = 0

    def forward(self, images: Tensor) -> Tensor:
        self.rows += len(images)
        logits = self.model(images)
        if logits.requires_grad:
            passes = itertools.count()
            logits.register_hook(lambda _gradient: self._add(len(images) if next(passes) else 0))
        return logits

    def _add(self, rows: int) -> None:
        self.rows += rows


@dataclass(frozen=True, slots=True)
class Outcome:
    """Candidates [B, C, H, W] and the evaluations spent on all of them together."""

    candidates: Tensor
    evaluations: int


Method = Callable[[nn.Module, Tensor, Tensor], Outcome]


def _ours(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    max_evaluations: int,
    dtype: torch.dtype = torch.float32,
    references: Tensor | None = None,
) -> Outcome:
    if dtype != torch.float32:
        model = copy.deepcopy(model).to(dtype)
    found = minimum_norm(
        model, images.to(dtype), labels, max_evaluations=max_evaluations, references=references, batch_size=500
    )
    return Outcome(found.images, int(found.evaluations.sum()))


def _adv_lib(model: nn.Module, images: Tensor, labels: Tensor, *, attack: str, **options: object) -> Outcome:
    run = getattr(adv_lib(), attack)
    counted = Counted(model)
    return Outcome(run(counted, images, labels, **options), counted.rows)


def adv_lib() -> types.ModuleType:
    """The attacks of adv-lib, whose optional plotting client is imported on the way to every one of them."""
    try:
        importlib.import_module("visdom")
    except ImportError:
        sys.modules["visdom"] = types.ModuleType("visdom")
    return importlib.import_module("adv_lib.attacks")


def _fab(model: nn.Module, images: Tensor, labels: Tensor, *, evaluations: int) -> Outcome:
    """FAB: an iteration is a forward pass, and one with a backward pass per rival; of many classes five in turn."""
    with torch.no_grad():
        classes = model(images[:1]).shape[1]
    few = classes <= 10
    restarts = {} if few else {"targeted_restarts": True, "restarts": 5}
    steps = evaluations // classes if few else evaluations // 10
    return _adv_lib(model, images, labels, attack="fab", norm=2, n_iter=max(1, steps), **restarts)


def _apgd_t(model: nn.Module, images: Tensor, labels: Tensor, *, evaluations: int, searches: int = 12) -> Outcome:
    """APGD against the three likeliest rivals in balls whose radius is doubled, then bisected, as AttackBench does."""
    attack = adv_lib().apgd_targeted
    counted = Counted(model)
    steps = max(1, evaluations // (3 * searches) - 1)
    low, radius = torch.zeros(len(images)), torch.ones(len(images))
    high = torch.full_like(low, torch.inf)
    found = images.clone()
    for _ in range(searches):
        tried = attack(counted, images, labels, eps=radius, norm=2, n_iter=steps, num_targets=3)
        with torch.no_grad():
            hit = counted(tried).argmax(1) != labels
        found[hit] = tried[hit]
        distance = (tried - images).flatten(1).norm(dim=1)  # at most the radius, often less: images lie in a box
        high, low = torch.where(hit, torch.minimum(radius, distance), high), torch.where(hit, low, radius)
        radius = torch.where(high.isinf(), 2 * low, (low + high) / 2)
    return Outcome(found, counted.rows)


def _foolbox(model: nn.Module, images: Tensor, labels: Tensor, *, attack: str, **options: object) -> Outcome:
    import foolbox

    counted = Counted(model).eval()
    wrapped = foolbox.PyTorchModel(counted, bounds=(0, 1), device=images.device)
    raw, _, _ = getattr(foolbox.attacks, attack)(**options)(wrapped, images, labels, epsilons=None)
    return Outcome(raw, counted.rows)


def _brendel_bethge(model: nn.Module, images: Tensor, labels: Tensor, *, steps: int) -> Outcome:
    """Foolbox's, started from images of the batch that are of another class (AttackBench does the same)."""
    import foolbox

    counted = Counted(model).eval()
    wrapped = foolbox.PyTorchModel(counted, bounds=(0, 1), device=images.device)
    np.random.seed(0)  # noqa: NPY002 - the attack draws its starts from the global generator
    starts = foolbox.attacks.DatasetAttack()
    starts.feed(wrapped, images)
    # its trust region is lr × all numbers of the batch, where one image's are meant
    attack = foolbox.attacks.L2BrendelBethgeAttack(init_attack=starts, steps=steps, lr=1e-3 / len(images))
    raw, _, _ = attack(wrapped, images, labels, epsilons=None)
    return Outcome(raw, counted.rows)


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


FAMILIES: dict[str, Callable[[int], Method]] = {
    "advlab": lambda n: functools.partial(_ours, max_evaluations=n),
    "advlab-ref": lambda n: functools.partial(_ours, max_evaluations=n),
    "alma": lambda n: functools.partial(_adv_lib, attack="alma", num_steps=n),
    "ddn": lambda n: functools.partial(_adv_lib, attack="ddn", steps=n, levels=None),
    "pdgd": lambda n: functools.partial(_adv_lib, attack="pdgd", num_steps=n),
    "fmn": lambda n: functools.partial(_adv_lib, attack="fmn", norm=2, steps=n),
    "fab": lambda n: functools.partial(_fab, evaluations=n),
    "apgd-t": lambda n: functools.partial(_apgd_t, evaluations=n),
    "bb": lambda n: functools.partial(_brendel_bethge, steps=n),
    "foolbox-ddn": lambda n: functools.partial(_foolbox, attack="DDNAttack", steps=n),
    "foolbox-fmn": lambda n: functools.partial(_foolbox, attack="L2FMNAttack", steps=n),
}
"""Methods with a budget of evaluations per image, by their name before it: ``ddn-1000``; ``advlab-ref`` is given
references."""

METHODS: dict[str, Method] = {
    "advlab-96-float64": functools.partial(_ours, max_evaluations=96, dtype=torch.float64),
    "sdf": functools.partial(_adv_lib, attack="sdf"),
    "cw-9x111": functools.partial(
        _adv_lib, attack="carlini_wagner_l2", binary_search_steps=9, max_iterations=111, initial_const=0.1
    ),
    "cw-9x1000": functools.partial(_adv_lib, attack="carlini_wagner_l2", binary_search_steps=9, max_iterations=1000),
    "foolbox-cw-9x111": functools.partial(
        _foolbox, attack="L2CarliniWagnerAttack", binary_search_steps=9, steps=111, initial_const=0.1
    ),
    "scipy-runner-up": functools.partial(_scipy, rivals=1),
    "scipy-nearest": functools.partial(_scipy, rivals=9),
}
"""The others; SuperDeepFool (``sdf``) stops by itself. Names that start with ``advlab`` are ours."""


def resolve(name: str, references: Tensor | None = None) -> Method:
    """The method called ``name``; ``references`` [R, C, H, W] are for one that takes them.

    Raises:
        UserError: an unknown name.
    """
    family, _, budget = name.rpartition("-")
    if name in METHODS:
        return METHODS[name]
    if family in FAMILIES and budget.isdecimal() and int(budget):
        method = FAMILIES[family](int(budget))
        return functools.partial(method, references=references) if family == "advlab-ref" else method
    families = ", ".join(f"{known}-N" for known in FAMILIES)
    raise UserError(f"unknown method {name!r}; choose among {families} (N evaluations), {', '.join(METHODS)}.")
