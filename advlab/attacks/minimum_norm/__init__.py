"""The minimum-norm attack: min ‖x′ − x‖₂ subject to the decision boundary and the box.

The problem. For an image x of n pixels in a box [l, u]ⁿ and logits z, let m(x′) be the margin that an attack has to
push below zero: z_y − max_{j≠y} z_j, or max_{j≠t} z_j − z_t for a target t. The attack minimises ‖x′ − x‖₂ subject to
m(x′) ≤ −ρ and l ≤ x′ ≤ u, where ρ covers the rounding of a forward pass in another batch
(`criterion.rounding_margin`).

One step (`lanes`). At an iterate x_t with margin m_t and gradient g_t the boundary is linearised, and the *clean*
image is projected onto the half-space and the box:

    p_t = argmin ‖p − x‖₂  subject to  g_t · (p − x_t) ≤ 0  and  l ≤ p ≤ u,

that is p_t = clip(x − λ g_t) with one multiplier λ, the root of a monotone piecewise linear function (`projection`).
The iterate goes a share s_t of the way, along the boundary, and corrects its distance from it along the gradient:

    x_{t+1} = clip(x_t + s_t (p_t − x_t) − κ (m_t/‖g_t‖) g_t/‖g_t‖),   κ = 2.5 from the clean side, 1 from beyond.

A fixed point has x′ = clip(x − λ g), m(x′) = 0 and λ ≥ 0: the conditions of Karush, Kuhn and Tucker. On kinks, where
gradients jump, s_t decays geometrically and the first descents average p_t − x_t over past steps.

A *lane* is one such sequence; an image has several. Every point at which the model is evaluated is a candidate, and
the closest that meets the criterion is kept (`best`). Along each lane's *ray* from the image the crossing is known to
first order; four forward passes of a safeguarded secant put the end of the best ray just beyond the boundary
(`rays`).

The search (`search`) spends the budget in three parts, whose order depends on the image alone:

1. Near the image. One forward pass and the gradients of the margins to R *rivals*, the classes that may win,
   linearise every boundary at x (`starts`). Up to four lanes start on the nearest; those that fall behind are
   dropped. This takes half of 96 evaluations.
2. The second descent takes the other half. It comes back to the boundary from twice the best perturbation, which ends
   in other, mostly better minima of networks with kinks. Where the best perturbation is long beside the distance to
   the nearest *reference*, an image that the model is known to misclassify, it starts at the boundary on the way
   there instead (`references`): before hardened networks gradients at x lead nowhere. Where nothing is across the
   boundary yet, steps that add up go beyond it (DeepFool, Moosavi-Dezfooli et al. 2016), and where these fail too,
   references do.
3. Rounds (`restarts`), with what the budget has beyond 96: each is one descent of forty steps from a further
   reference (Brendel & Bethge 2019 start so), or from the best point displaced at random, or from the best point by
   short steps. They go on until ten rounds in a row have brought nothing. A larger budget takes the same rounds and
   some more, so from 96 evaluations on it is never worse.

What is done between two evaluations is a few compiled loops on the CPU (`kernels`) and operations on whole arrays
elsewhere.
"""

from advlab.attacks.minimum_norm.attack import minimum_norm

__all__ = ["minimum_norm"]
