"""`minimum_norm` as it is called: arguments, batches, and the verdict."""

import functools

import torch
from torch import Tensor

from advlab.attacks import targets
from advlab.attacks.arguments import checked
from advlab.attacks.chunks import block_rows
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
    """Find the nearest image that the model misclassifies (or classifies as ``target``).

    The first 96 evaluations go to descents that start on the boundaries linearised at the image; the rest of the budget
    goes to rounds that start at misclassified images, and at the best point so far, displaced. The mathematics is in
    `advlab.attacks.minimum_norm`. Gradients are taken with respect to the images alone; the model's parameters and
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
            gradients of R rivals at the clean image count as R. The final verdict, and one forward pass of every
            reference per call, are not counted. Of two budgets from 96 on, the larger one is never worse.
        references: [R, ...], images to start from where the model misclassifies them (or classifies them as the
            target): some hundreds of the training set will do. Blank images and noise are always among them.
        batch_size: images searched at once, which bounds the memory (default: 1.5 MiB of them on the CPU, for its
            cache, and 64 MiB elsewhere).

    Returns:
        Images that are misclassified (or classified as ``target``) already are returned unchanged, with success at
        distance 0; those for which no point across the boundary was found, unchanged without success. ``ended`` says
        how the search of each ended.

    Raises:
        UserError: images or references outside ``bounds``, a budget below 1, an unknown policy or unusable targets.
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
    chosen, ended = torch.full_like(labels, -1), torch.zeros_like(labels)
    for first in range(0, len(images), batch_size):
        rows = slice(first, first + batch_size)
        part = target[rows] if isinstance(target, Tensor) else target
        with torch.enable_grad():
            search = Search(model, images[rows], labels[rows], bounds, max_evaluations)
            policy = targets.choose(part, search.logits, labels[rows], seed=seed, index=position[rows])
            best = search.run(Criterion(labels[rows], policy), known, references is not None)
        candidates[rows] = best.x.view_as(images[rows])
        evaluations[rows], ended[rows] = best.evaluations, search.ended()
        if policy is not None:
            chosen[rows] = policy
    criterion = Criterion(labels, None if target == "nearest" else chosen)
    return judge(model, images, candidates, criterion, evaluations, ended=ended)
