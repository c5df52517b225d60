"""The three measures of transferability of Demontis et al. 2019, "Why do adversarial attacks transfer?", section 4:
size of the target's input gradients (S), their alignment with the source's (R), and the variability of the source's
loss over training runs (V).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Gradients:
    """The loss at clean images ([B], cross entropy of the true class in nats), and its gradient [B, n] at them."""

    loss: Tensor
    gradient: Tensor


def input_gradients(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 500) -> Gradients:
    """Loss and input gradient of a classifier at images [B, ...] with labels [B]."""
    losses, gradients = [], []
    for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        leaf = x.detach().clone().requires_grad_()
        loss = functional.cross_entropy(model(leaf), y, reduction="none")
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        losses.append(loss.detach())
        gradients.append(gradient.flatten(1))
    return Gradients(torch.cat(losses), torch.cat(gradients))


def gradient_size(target: Gradients) -> float:
    """S: mean ‖∇ℓ‖₂ of the target (their equation 12)."""
    return float(target.gradient.norm(dim=1).mean())


def gradient_alignment(source: Gradients, target: Gradients) -> float:
    """R: mean cosine between the two models' input gradients (their equation 16)."""
    return float(functional.cosine_similarity(source.gradient, target.gradient, dim=1).mean())


def loss_variability(replicas: Sequence[Gradients]) -> float:
    """V: variance of the loss over replicas of a model, averaged over images (their equation 15); needs two or more."""
    return float(torch.stack([replica.loss for replica in replicas]).double().var(0).mean())


@dataclass(frozen=True, slots=True)
class Regression:
    """A least-squares fit of one response per (source, target) pair from several predictors.

    Attributes:
        weights: by predictor, the change of the response, in its standard deviations, per standard deviation.
        p: by predictor, of the two-sided t-test that its weight is 0.
        r2: share of the variance explained.
        left_out_r2: the same when each source's pairs are predicted from those of the other sources.
    """

    weights: dict[str, float]
    p: dict[str, float]
    r2: float
    left_out_r2: float


def regress(predictors: Mapping[str, np.ndarray], response: np.ndarray, sources: Sequence[str]) -> Regression:
    """Fit ``response`` [P] by predictors [P] over pairs; ``sources`` names the source of each pair. Raises a ValueError
    unless there are more pairs than predictors.
    """
    x = np.column_stack([stats.zscore(values) for values in predictors.values()])
    y = stats.zscore(response)
    free = len(y) - x.shape[1] - 1
    if free < 1:
        raise ValueError(f"{len(y)} pairs are too few for {x.shape[1]} predictors.")
    design = np.column_stack([np.ones(len(y)), x])
    weights = np.linalg.lstsq(design, y, rcond=None)[0]
    residual = y - design @ weights
    error = np.sqrt(np.diag(np.linalg.pinv(design.T @ design)) * (residual @ residual) / free)
    p = 2 * stats.t.sf(np.abs(weights) / error, free)
    left_out = np.empty_like(y)
    for source in dict.fromkeys(sources):
        own = np.array([name == source for name in sources])
        left_out[own] = design[own] @ np.linalg.lstsq(design[~own], y[~own], rcond=None)[0]
    return Regression(
        weights=dict(zip(predictors, weights[1:].tolist(), strict=True)),
        p=dict(zip(predictors, p[1:].tolist(), strict=True)),
        r2=1 - float(residual @ residual) / float(y @ y),
        left_out_r2=1 - float(np.square(y - left_out).sum()) / float(y @ y),
    )
