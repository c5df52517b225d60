"""The attack as it is called: batches, targets, and the verdict."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from advlab.attacks import targets
from advlab.attacks.arguments import checked
from advlab.attacks.blocks import block_rows
from advlab.attacks.criterion import Criterion
from advlab.attacks.minimum_norm.search import Search
from advlab.attacks.model import Classifier, Model
from advlab.attacks.references import References
from advlab.attacks.result import Adversarial, judge
from advlab.errors import UserError


@checked
def minimum_norm(
    model: Model,
    images: Tensor,
    labels: Tensor,
    target: str | Tensor = "nearest",
    bounds: tuple[float, float] = (0.0, 1.0),
    *,
    seed: int = 0,
    index: Tensor | None = None,
    max_evaluations: int = 96,
    references: Tensor | None = None,
    batch_size: int | None = None,
) -> Adversarial:
    """Find the nearest image that the model misreads (or reads as ``target``).

    Every image starts a few *lanes*, one per promising class and start; a lane projects the clean image onto the
    linearised boundary and the box, moves there with a decaying step, and linearises again (see `boundary`). Lanes
    that fall behind are dropped. From twice the best perturbation found a second descent comes back to the boundary,
    and a secant search along the ray of the better one puts the image just beyond it: far enough that it stays
    misread in any other batch. Gradients are taken with respect to the images alone; the model's parameters and
    their ``grad`` are left as they are.

    Args:
        model: images [B, ...] → logits [B, k], differentiable.
        images: [B, C, H, W] or [B, n], within ``bounds``.
        labels: [B] int64, true classes.
        target: ``nearest`` (any class but the label), ``runner-up``, ``random``, ``least-likely``, or classes [B].
        bounds: lowest and highest valid intensity.
        seed: of the ``random`` policy; the search itself draws no random numbers.
        index: [B] int64, the images' positions in the data set, for the ``random`` policy.
        max_evaluations: budget per image. A forward pass counts as one, with or without its backward pass; the
            gradients of R rivals at the clean image count as R. The final verdict (one forward pass) is not counted.
        references: [R, ...] images of other classes; descents start on the way to those that are misclassified. Blank
            images and noise always serve too.
        batch_size: images searched at once, which bounds the memory (default: 1.5 MiB of them on the CPU, for its
            cache, and 64 MiB elsewhere).

    Returns:
        Images read so already are returned unchanged at distance 0, and so are, without success, those for which
        the budget found no point across the boundary.

    Raises:
        UserError: images outside ``bounds``, a budget below 1, an unknown policy or unusable targets.
    """
    assert isinstance(model, Classifier)
    if batch_size is None:
        batch_size = block_rows(images[:1].numel(), images)
    if max_evaluations < 1 or batch_size < 1:
        raise UserError(
            f"max_evaluations={max_evaluations} and batch_size={batch_size} must both be at least 1; raise them."
        )
    known = functools.cache(lambda: References.of(model, images, references, bounds))
    candidates = images.clone()
    evaluations = torch.zeros_like(labels)
    position = torch.arange(len(labels), device=labels.device) if index is None else index
    chosen = torch.full_like(labels, -1)
    for first in range(0, len(images), batch_size):
        rows = slice(first, first + batch_size)
        part = target[rows] if isinstance(target, Tensor) else target
        with torch.enable_grad():
            search = Search(model, images[rows], labels[rows], bounds, max_evaluations)
            policy = targets.choose(part, search.logits, labels[rows], seed=seed, index=position[rows])
            best = search.run(Criterion(labels[rows], policy), known)
        candidates[rows] = best.x.view_as(images[rows])
        evaluations[rows] = best.evaluations
        if policy is not None:
            chosen[rows] = policy
    criterion = Criterion(labels, None if target == "nearest" else chosen)
    return judge(model, images, candidates, criterion, evaluations)
