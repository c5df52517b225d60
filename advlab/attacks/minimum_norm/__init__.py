"""The minimum-norm attack: the nearest image in the box that a model misclassifies.

**The problem.** Let x be a clean image of n pixels in the box [l, u]ⁿ, and z the logits of an image x′. An attack has
to push the *margin* m below zero (`criterion`): for a label y, or for a target class t,

    m(x′) = z_y − max_{j≠y} z_j,    or    m(x′) = max_{j≠t} z_j − z_t.

The attack minimises the norm of the perturbation:

    min ‖x′ − x‖₂    subject to    m(x′) ≤ −ρ  and  l ≤ x′ ≤ u,                                     (1)

where ρ covers the rounding of a forward pass in another batch (`criterion.rounding_margin`). The search aims a little
farther, at m = −1.1 ρ; from here on, m stands for m + 1.1 ρ.

**One step** (`lanes`). A *lane* is a sequence of iterates x_t from one start; an image has several. With m and
g = ∇m at x_t, e = m/‖g‖ is the distance of x_t from the linearised boundary, positive on the clean side. The *clean*
image is projected onto the half-space beyond the linearised boundary and the box:

    p = argmin ‖p − x‖₂    subject to    g · (p − x_t) ≤ −a ‖g‖  and  l ≤ p ≤ u,                    (2)

which is p = clip(x − λ g) with one multiplier λ ≥ 0, the root of a monotone piecewise linear function (`projection`).
*Near* the boundary, in the sense of (4), a = 0: the move p − x_t leads along the boundary, and a step along −g corrects
the distance e. Far from it a = e: the move leads to the linearised boundary itself, and is no longer than a cap c.

    near:   x_{t+1} = clip(x_t + s v − κ e g/‖g‖),       κ = 2.5 where e > 0, 1 where e ≤ 0
    far:    x_{t+1} = clip(x_t + min(1, c/‖p − x_t‖) (p − x_t)).                                    (3)

v is the average of the moves p − x_t since the lane came near, with weights that decay by a factor β per step. A fixed
point has v = 0 and e = 0, that is x′ = clip(x − λ g), m(x′) = 0 and λ ≥ 0: the conditions of Karush, Kuhn and Tucker
for (1). On the kinks of ReLU and max pooling, where g jumps, single projections zigzag; so s decays geometrically over
a descent, and v averages over several moves (only descents from references and rounds, below, take β = 0).

For a target, m is a maximum over the *rivals*, the classes that the target has to overtake; near the clean image, (2)
has one half-space for each of them.

**Rays.** With d = g · (x − x_t)/‖g‖, the ray from x through x_t crosses the linearised boundary at

    x + τ (x_t − x),    τ = 1 + e/d;    x_t is near the boundary where d > 0 and |τ − 1| < 1.       (4)

The *merit* of that crossing is its distance from x times a *doubt* that grows with its distance from the iterate:

    τ ‖x_t − x‖ (1 + 4 (τ − 1)²).                                                                   (5)

For each image the ray of the least merit that its lanes have met is kept (`rays`). After a descent, four forward passes
of a safeguarded secant along that ray end just beyond the boundary. Of all points at which the model is evaluated, the
closest that meets (1) is kept (`best`).

**The search** (`search`) spends the budget in three parts. Their order depends on the image alone.

1. Near the image. One forward pass and the gradients of the margins to at most nine rivals linearise every boundary at
   x; projections onto them rank the rivals (`starts`). Up to four lanes start towards the nearest; those that fall
   behind are dropped, those that converge stop. With 96 evaluations this part takes about half.
2. The second descent takes the other half. It returns to the boundary from twice the best perturbation, which ends in
   other, mostly better minima of networks with kinks; where the first converged on a smooth boundary it is left out.
   - On hardened networks the gradients at x lead nowhere. So where the user gives *references*, and the best
     perturbation is longer than a quarter of the distance to the nearest reference that meets the criterion, the
     second descent starts at the boundary on the way to that reference (`references`).
   - Where no point across the boundary is known yet, the steps of DeepFool (Moosavi-Dezfooli et al. 2016, algorithm 2)
     search for one. Where they fail too, the answer is the boundary on the way to the nearest reference; blank images
     and noise always serve as references.
3. Rounds (`restarts`), with what the budget has beyond 96. Each is one descent of forty steps: from a further reference
   (Brendel et al. 2019 start so), from the best point displaced at random, or from the best point by short steps. The
   search of an image ends after ten rounds in a row without a gain. A larger budget takes the same rounds and then
   more, so from 96 evaluations on it is never worse.

**Names.** Code and mathematics:

    x  `images`, `clean`        x_t  `x`           ‖x_t − x‖  `length`       m  `margins`       g  `gradient`
    ‖g‖  `slope`                1/‖g‖  `unit`      e  `excess`               d  `descent`       τ  `crossing`
    1 + 4 (τ − 1)²  `doubt`     (5)  `merit`       λ‖g‖  `multipliers`       s  `step`          β  `momentum`
    v  `velocity`               c  `cap`           κ  `RETURN_GAIN`          a  `aim`           ρ  `rounding`

**Files.** `attack` (arguments, batches, verdict) calls `search`; that moves `lanes`, begun by `starts`, over the `rays`
of the images, asks `restarts` for the next round, and keeps the `best`. `kernels` has the same steps as compiled loops.
"""

from advlab.attacks.minimum_norm.attack import minimum_norm

__all__ = ["minimum_norm"]
