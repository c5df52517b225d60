"""The attack of Szegedy et al. (2014, section 4.1): D(x, l) by box-constrained L-BFGS, with a search over a penalty.

D(x, l) is the image nearest to x that the model classifies as l. The paper approximates it by the minimisers of

    x(c) = argmin c ‖x′ − x‖₂² + loss(x′, l)    subject to    x′ in the box,                        (1)

with the cross entropy as the loss, for the best constant c. The margin m = max_{j≠l} z_j − z_l of the minimisers
increases with c: a large c keeps x′ near x, where the model says something else, a small one leads far beyond the
boundary. So the best c is the root of m(x(c)) in log c. The parts:

- `penalised`: the objective (1) of a batch, its gradient, and the best point that any evaluation has come across;
- `penalty_search`: the root, without solving (1) further than the sign of m needs;
- `bracket`: the root finder, an Illinois method;
- `advlab.optim.lbfgsb`: the solver, which takes a new c on the way;
- `references`: a second start where the gradient at x leads nowhere.

Shapes: B images, n pixels, k classes.
"""

import functools
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from advlab.attacks import penalty_search, targets
from advlab.attacks.arguments import checked
from advlab.attacks.criterion import Criterion, in_play
from advlab.attacks.model import Classifier, Model
from advlab.attacks.penalised import Loss, Method, Norm, Problems
from advlab.attacks.references import References
from advlab.attacks.result import Adversarial, judge

LITERAL_C = 1e-4
"""The constant of ``paper_literal``: a small one, since the smallest that succeeds does not exist."""
SECOND_SEARCHES = 2
"""After a search from the clean image has failed: one from the way to a reference, and one from the best point then."""
DOUBTED = 0.4
"""A search counts as failed, too, when its best point is farther than this share of the distance to the nearest
reference that the model classifies as l: on normally trained networks hardly any is, on hardened ones most are."""


@checked
def szegedy_lbfgs(
    model: Model,
    images: Tensor,
    labels: Tensor,
    target: str | Tensor = "random",
    bounds: tuple[float, float] = (0.0, 1.0),
    *,
    seed: int = 0,
    index: Tensor | None = None,
    initial_c: float = 0.1,
    tolerance: float = 0.01,
    search_steps: int = 30,
    max_iter: int = 50,
    history: int = 5,
    loss: Loss = "cross-entropy",
    norm: Norm = "squared",
    reference: Literal["scipy"] | None = None,
    paper_literal: bool = False,
    references: Tensor | None = None,
) -> Adversarial:
    """Minimise c‖x' − x‖₂² + loss(x', l) over the box, for the best c of each image.

    The paper asks for the *minimum* c at which the minimiser is classified as l. But c multiplies the distance, so the
    smaller it is, the farther is the minimiser. This searches the *largest* such c, separately for each image. Every
    solve starts where the last one ended, and the closest image that any evaluation of any solve came across is
    returned.

    Where that finds nothing, or nothing near compared to the references given (as on hardened networks, whose gradients
    at the clean image lead nowhere), the search starts again just beyond the boundary, on the way to the nearest
    reference that is classified as l.

    Args:
        model: images [B, ...] → logits [B, k].
        images: [B, ...], within ``bounds``.
        labels: [B] int64, true classes.
        target: a policy name or explicit targets [B]. ``nearest`` attacks all k − 1 wrong classes and keeps the
            closest.
        bounds: the box.
        seed: of the ``random`` policy.
        index: [B] int64, the images' positions in the data set, for the ``random`` policy.
        initial_c: the first constant tried, in units of 1/w² where the box has width w (1/w for the plain norm).
        tolerance: the search ends when the largest constant known to succeed and the smallest known to fail are
            within a factor 1 + tolerance.
        search_steps: most constants tried per image.
        max_iter: most L-BFGS-B iterations per constant.
        history: correction pairs of L-BFGS-B.
        loss: ``cross-entropy`` (the paper's), or ``margin``, max(0, max_{j≠l} z_j − z_l) (Carlini & Wagner 2017, f₆).
        norm: ``squared``, or ``plain`` for c‖x' − x‖₂ as printed, smoothed within ``ROUNDED`` of the image, where it
            has no gradient.
        reference: ``scipy`` solves every problem by SciPy's L-BFGS-B, one image at a time: slow, to check the fast
            solver against.
        paper_literal: take "minimum c" literally: every constant below one that succeeds also succeeds, so solve once
            with a small one, ``LITERAL_C``, and return that minimiser; there is no second start.
        references: [R, ...] images of other classes, for second starts; blank images and noise always serve too. The
            model is evaluated on them only where the first search has failed.

    Returns:
        Success means: classified as the target (for ``nearest``: not as the label). Images for which this holds already
        are returned unchanged, with NaN for ``c``. All others succeed if any reference is classified so.

    Raises:
        UserError: images or references outside ``bounds``, an unknown policy or unusable targets.
    """
    assert isinstance(model, Classifier)
    known = functools.cache(lambda: References.of(model, images, references, bounds))
    with torch.no_grad():
        logits = model(images)
    chosen = targets.choose(target, logits, labels, seed=seed, index=index)
    method = Method(loss, norm, max_iter, history, reference == "scipy")

    def attack(images: Tensor, criterion: Criterion, logits: Tensor, origin: Tensor) -> Problems:
        problems = Problems(model, images=images, logits=logits, criterion=criterion, bounds=bounds, method=method)
        if paper_literal:
            problems.solve_once(LITERAL_C)
            return problems
        live = (~problems.already).nonzero().squeeze(1)
        penalty_search.search(problems, live, problems.clean[live], initial_c, tolerance, search_steps)
        nearest = problems.best_distance.new_full((len(labels),), torch.inf)
        nearest.scatter_reduce_(0, origin, problems.best_distance, "amin")
        again = nearest[origin].isinf()
        if references is not None:
            leading = (problems.best_distance == nearest[origin]) & ~problems.already
            again |= leading & problems.is_long(references, DOUBTED)
        doubtful = again.nonzero().squeeze(1)
        if len(doubtful):
            doubtful, start = problems.on_the_way(known(), doubtful, DOUBTED)
            for _ in range(SECOND_SEARCHES if len(doubtful) else 0):
                penalty_search.search(problems, doubtful, start, initial_c, tolerance, search_steps)
                start = problems.best[doubtful]
        return problems

    if chosen is None:
        return _nearest(model, images, labels, logits, attack)
    problems = attack(images, Criterion(labels, chosen), logits, torch.arange(len(labels), device=labels.device))
    return judge(model, images, problems.answer(), problems.criterion, problems.evaluations, problems.constants())


def _nearest(
    model: Model,
    images: Tensor,
    labels: Tensor,
    logits: Tensor,
    attack: Callable[[Tensor, Criterion, Tensor, Tensor], Problems],
) -> Adversarial:
    """Attack every wrong class of every image that is in play, and keep the closest success."""
    num_wrong = logits.shape[1] - 1
    every = (labels[:, None] + torch.arange(1, num_wrong + 1, device=labels.device)) % logits.shape[1]
    repeat = torch.arange(len(labels), device=labels.device).repeat_interleave(num_wrong)
    untargeted = Criterion(labels)
    already = untargeted.is_met(logits)
    live = in_play(logits).gather(1, every).flatten() & ~already[repeat]
    rows = repeat[live]
    problem = attack(images[rows], Criterion(labels[rows], every.flatten()[live]), logits[rows], rows)
    distance = torch.full((len(repeat),), torch.inf, dtype=torch.float64, device=images.device)
    distance[live] = problem.best_distance.nan_to_num(posinf=torch.finfo(torch.float64).max)
    best = distance.view(-1, num_wrong).argmin(1)
    position = live.cumsum(0) - 1
    winner = position[torch.arange(len(labels), device=labels.device) * num_wrong + best].clamp(min=0)
    evaluations = torch.zeros(len(repeat), dtype=torch.int64, device=images.device)
    evaluations[live] = problem.evaluations
    untouched = ~live.view(-1, num_wrong).any(1)
    keep = untouched.view(-1, *[1] * (images.ndim - 1))
    if not len(problem.best_c):
        return judge(model, images, images.clone(), untargeted, evaluations.view(-1, num_wrong).sum(1))
    found = torch.where(keep, images, problem.answer()[winner])
    c = torch.where(untouched, torch.nan, problem.constants()[winner])
    return judge(model, images, found, untargeted, evaluations.view(-1, num_wrong).sum(1), c)
