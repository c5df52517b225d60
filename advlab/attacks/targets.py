"""Policies for the class to aim at: the paper does not state its own, so each has a name."""

from typing import Literal, get_args

import torch
from torch import Tensor

from advlab.attacks.criterion import in_play
from advlab.errors import UserError

Policy = Literal["random", "nearest", "runner-up", "least-likely"]
POLICIES: tuple[str, ...] = get_args(Policy)


def choose(
    policy: str | Tensor, logits: Tensor, labels: Tensor, *, seed: int = 0, index: Tensor | None = None
) -> Tensor | None:
    """The target class of each row, or None for ``nearest`` (any class but the label).

    ``least-likely`` and ``random`` choose among the classes in play; see `in_play`.

    Args:
        policy: a policy name, or explicit targets as a LongTensor [B].
        logits: [B, k], of the clean images.
        labels: [B] int64.
        seed: of the ``random`` policy.
        index: [B] int64, the rows' positions in the data set (default 0..B-1). A row's random target depends on
            (seed, index) and its classes in play alone, so it is the same however a data set is cut into shards.

    Raises a UserError for an unknown policy, or explicit targets out of range.
    """
    num_classes = logits.shape[1]
    if isinstance(policy, Tensor):
        target = policy.to(labels)
        if len(target) and not (int(target.min()) >= 0 and int(target.max()) < num_classes):
            raise UserError(f"target holds a class outside 0..{num_classes - 1}.")
        return target
    others = logits.scatter(1, labels[:, None], -torch.inf)
    wrong = torch.ones_like(logits, dtype=torch.bool).scatter(1, labels[:, None], False)
    possible = wrong & in_play(logits)
    possible = torch.where(possible.any(1, keepdim=True), possible, wrong)
    match policy:
        case "nearest":
            return None
        case "runner-up":
            return others.argmax(1)
        case "least-likely":
            return logits.masked_fill(~possible, torch.inf).argmin(1)
        case "random":
            position = torch.arange(len(labels), device=labels.device) if index is None else index.to(labels.device)
            place = _hash(seed, position) % possible.sum(1)
            after = (labels[:, None] + torch.arange(1, num_classes, device=labels.device)) % num_classes
            passed = possible.gather(1, after).cumsum(1) <= place[:, None]
            return after.gather(1, passed.sum(1, keepdim=True)).squeeze(1)
    raise UserError(f"unknown target policy {policy!r}; choose one of {', '.join(POLICIES)}, or give classes.")


def _hash(seed: int, position: Tensor) -> Tensor:
    """Non-negative int64 per position: splitmix64's finaliser (Steele et al. 2014), on wrapping 64-bit integers."""
    x = position.long() * -7046029254386353131 + (seed * 0x632BE59BD9B4E019 + 0x3C6EF372FE94F82A) % 2**63
    x = (x ^ (x >> 30 & (1 << 34) - 1)) * -4658895280553007687
    x = (x ^ (x >> 27 & (1 << 37) - 1)) * -7723592293110705685
    return (x ^ (x >> 31 & (1 << 33) - 1)) & (2**63 - 1)
