"""Euclidean projections onto half-spaces intersected with a box, for a batch of independent problems.

The problem is min ½‖x − p‖² subject to A x ≤ b and l ≤ x ≤ u. For multipliers λ ≥ 0 the Lagrangian is least at

    x(λ) = clip(p − Aᵀλ, l, u),                                                                     (1)

and the dual function is

    q(λ) = ½‖x(λ) − p‖² + λᵀ(A x(λ) − b),   ∇q = A x(λ) − b,   ∇²q = −A_F A_Fᵀ,                     (2)

with A_F the columns of the pixels that (1) does not clip. q is concave; both routines maximise it by Newton's method,
in one unknown per half-space whatever the number of pixels.
"""

import torch
from torch import Tensor


def project_halfspace(
    points: Tensor,
    normals: Tensor,
    offsets: Tensor,
    lower: float = -torch.inf,
    upper: float = torch.inf,
    *,
    iterations: int = 50,
) -> tuple[Tensor, Tensor]:
    """Project onto {x : a·x ≤ b} ∩ box, by Newton's method on the dual (2).

    For points inside the box, a·x(λ) − b is convex, decreasing and piecewise linear in λ, so Newton's method reaches
    its root in finitely many steps from any start, without a line search and without sorting the breakpoints.

    Args:
        points: [B, n], p, inside the box.
        normals: [B, n], a.
        offsets: [B], b.
        lower, upper: of the box.
        iterations: Newton steps; the default is ample for an exact root.

    Returns:
        The projections [B, n] and the multipliers λ [B]. Where half-space and box do not meet, the point of the
        box that λ grew towards.
    """
    tiny = torch.finfo(points.dtype).tiny
    excess = torch.linalg.vecdot(normals, points) - offsets
    multipliers = (excess / torch.linalg.vecdot(normals, normals).clamp_min(tiny)).clamp_min(0)  # without a box
    boxed = points
    for step in range(iterations + 1):
        moved = torch.addcmul(points, multipliers[:, None], normals, value=-1)
        boxed = moved.clamp(lower, upper)
        if step == iterations:
            break
        excess = torch.linalg.vecdot(normals, boxed) - offsets
        clipped = moved.sub_(boxed).abs_().sign_()  # faster than a comparison and a selection
        slope = torch.linalg.vecdot(normals, torch.addcmul(normals, clipped, normals, value=-1))
        newton = (multipliers + excess / slope.clamp_min(tiny)).clamp_min(0)
        multipliers = torch.where(slope > 0, newton, multipliers)
    return boxed, multipliers


def project_polytope(
    points: Tensor,
    normals: Tensor,
    offsets: Tensor,
    lower: float = -torch.inf,
    upper: float = torch.inf,
    *,
    iterations: int = 100,
    start: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Project onto {x : A x ≤ b} ∩ box, by projected Newton on the dual (2) (Bertsekas 1982) with Levenberg damping.

    A step is λ ← max(0, λ + (A_F A_Fᵀ + μI)⁻¹ ∇q) in the multipliers that bind. The damping μ takes the place of a line
    search: it makes parallel half-spaces and images with most pixels at their bounds (a singular Hessian) harmless, and
    fades once the steps are good.

    Args:
        points: [B, n], p.
        normals: [B, m, n], A; rows of zeros with non-negative offsets are ignored.
        offsets: [B, m], b; infinite where a half-space is the whole space.
        lower, upper: of the box.
        iterations: most Newton steps; the rows are solved long before unless their polytope is empty.
        start: [B, m], non-negative multipliers to start from (default 0).

    Returns:
        The projections [B, n] and the multipliers [B, m]. Where the polytope is empty the multipliers grow
        without bound; check A x ≤ b.
    """
    lengths = normals.norm(dim=2)
    scale = torch.where(lengths > 0, lengths, 1)
    unit = normals / scale[:, :, None]
    offsets = (offsets / scale).clamp_max(torch.finfo(points.dtype).max ** 0.25)  # as far as none binds; 0 · ∞ is NaN
    identity = torch.eye(normals.shape[1], dtype=points.dtype, device=points.device)
    rounding = 16 * torch.finfo(points.dtype).eps

    def evaluate(multipliers: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        moved = points - torch.einsum("bm,bmn->bn", multipliers, unit)
        boxed = moved.clamp(lower, upper)
        excess = torch.einsum("bmn,bn->bm", unit, boxed) - offsets
        value = (boxed - points).square().sum(1) / 2 + (multipliers * excess).sum(1)
        return boxed, excess, value, boxed == moved

    multipliers = torch.zeros_like(offsets) if start is None else start * scale
    boxed, excess, value, free = evaluate(multipliers)
    damping = torch.full_like(value, 1e-3)
    for _ in range(iterations):
        binding = (multipliers > 0) | (excess > 0)
        residual = torch.minimum(multipliers, -excess).abs().amax(1)  # zero exactly at the optimum
        if bool((residual <= rounding).all()):
            break
        pairs = binding[:, :, None] & binding[:, None, :]
        masked = torch.where(free[:, None], unit, 0)
        hessian = torch.where(pairs, masked @ unit.mT, 0)
        hessian = hessian + identity * torch.where(binding, damping[:, None], 1)[:, :, None]
        step, info = torch.linalg.solve_ex(hessian, torch.where(binding, excess, 0)[:, :, None])
        trial = (multipliers + step[:, :, 0]).clamp_min(0)
        new_boxed, new_excess, new_value, new_free = evaluate(trial)
        gain = (excess * (trial - multipliers)).sum(1)
        accepted = (info == 0) & (new_value - value >= 1e-4 * gain - rounding * value.abs())
        damping = torch.where(accepted, damping / 10, damping * 5).clamp(rounding, 1e3)
        keep = accepted[:, None]
        multipliers = torch.where(keep, trial, multipliers)
        boxed, excess = torch.where(keep, new_boxed, boxed), torch.where(keep, new_excess, excess)
        value, free = torch.where(accepted, new_value, value), torch.where(keep, new_free, free)
    return boxed, multipliers / scale
