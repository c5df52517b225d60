"""A linear probe: logistic regression of one class against all others on fixed features."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor
from torch.nn import functional

Z95 = 1.959964


@dataclass(frozen=True, slots=True)
class Detection:
    """How well scores tell positives from negatives, with 95% intervals.

    Attributes:
        auc: the probability that a positive has the higher score (Hanley & McNeil 1982, with their interval).
        balanced_accuracy: the mean of the true positive and the true negative rate, at score 0.
        positives, negatives: how many.
    """

    auc: float
    auc_low: float
    auc_high: float
    balanced_accuracy: float
    balanced_low: float
    balanced_high: float
    positives: int
    negatives: int


def fit(features: Tensor, positive: Tensor, decay: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Weight [F] and bias [] of the logistic regression of ``positive`` [N] on features [N, F], by L-BFGS to
    convergence.

    Both classes have the same total weight. The decay (λ/2)‖w‖² applies to weights of standardised features.
    """
    values = features.double()
    mean, deviation = values.mean(0), values.std(0).clamp_min(1e-6)
    scaled = (values - mean) / deviation
    target = positive.double()
    balance = torch.where(positive, 0.5 / target.mean(), 0.5 / (1 - target.mean()))
    parameters = torch.zeros(scaled.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS(
        [parameters], max_iter=500, tolerance_grad=1e-7, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def cost() -> Tensor:
        search.zero_grad()
        score = scaled @ parameters[:-1] + parameters[-1]
        loss = functional.binary_cross_entropy_with_logits(score, target, balance)
        loss = loss + 0.5 * decay * parameters[:-1].square().sum()
        loss.backward()
        return loss

    search.step(cost)
    found = parameters.detach()
    weight = found[:-1] / deviation
    return weight.float(), (found[-1] - weight @ mean).float()


def detection(score: Tensor, positive: Tensor) -> Detection:
    """Evaluate scores [N] against the truth [N] bool."""
    ranks, is_positive = rankdata(score.double().numpy()), positive.numpy()
    m, n = int(is_positive.sum()), int((~is_positive).sum())
    auc = float((ranks[is_positive].sum() - m * (m + 1) / 2) / (m * n))
    first, second = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = (auc * (1 - auc) + (m - 1) * (first - auc**2) + (n - 1) * (second - auc**2)) / (m * n)
    right = (score > 0).numpy() == is_positive
    rates = np.array([right[is_positive].mean(), right[~is_positive].mean()])
    spread = 0.5 * math.sqrt(float((rates * (1 - rates) / [m, n]).sum()))
    balanced = float(rates.mean())
    wide = Z95 * math.sqrt(variance)
    return Detection(auc, auc - wide, auc + wide, balanced, balanced - Z95 * spread, balanced + Z95 * spread, m, n)
