"""Compiled loops over lanes: what `lanes`, `best` and `rays` compute with whole arrays, on the CPU.

One lane's image, gradient and averages fit the processor's first cache, so a lane is read and written once per step,
where operations on whole arrays pass over all lanes some twenty times. Tensors that `compiled.fits` refuses take the
path of whole arrays; the two are tested against each other.

Shapes: B images of a batch, n pixels, k classes, L lanes. Arguments that have the names of attributes of `lanes.Lanes`,
`rays.Rays` or `best.BestSoFar` are these; numbers in brackets are the equations of the package's overview.
"""

import math

import numpy as np

from advlab.compiled import Array, helper, loop


@helper
def _projected(clean: float, multiplier: float, gradient: float, lower: float, upper: float) -> float:
    """A pixel of the clean image's projection: clip(x − λ g)."""
    return min(max(clean - multiplier * gradient, lower), upper)


@helper
def _slopes(gradient: Array, clean: Array, x: Array) -> tuple[float, float]:
    """‖g‖² and g · (clean − x)."""
    squared, descent = x.dtype.type(0), x.dtype.type(0)
    for i in range(len(x)):
        squared += gradient[i] * gradient[i]
        descent += gradient[i] * (clean[i] - x[i])
    return squared, descent


@loop
def advance(
    images: Array, ends: Array, crossing: Array, doubt: Array, best: Array, row: Array, x: Array, length: Array,
    velocity: Array, weight: Array, cap: Array, slope: Array, curved: Array, multipliers: Array, merit: Array,
    residual: Array, margins: Array, gradient: Array, step: float, momentum: float, lower: float, upper: float,
    return_gain: float, near_within: float, doubt_weight: float, bend_from: float, bend_to: float, min_share: float,
) -> None:  # fmt: skip
    """One step of every lane that has one rival; see `lanes.Lanes.advance`. ``best`` is the merit of the rays."""
    kind = x.dtype.type
    zero, one, infinite, tiny = kind(0), kind(1), kind(np.inf), kind(np.finfo(x.dtype).tiny)
    step, momentum, lower, upper = kind(step), kind(momentum), kind(lower), kind(upper)
    n = x.shape[1]
    finite = np.empty(n, x.dtype)
    for lane in range(len(row)):
        at, normal, clean, average = x[lane], gradient[lane], images[row[lane]], velocity[lane]
        squared, descent = _slopes(normal, clean, at)
        if not math.isfinite(squared):
            for i in range(n):
                finite[i] = normal[i] if math.isfinite(normal[i]) else zero
            normal = finite
            squared, descent = _slopes(normal, clean, at)
        steep, margin, before = kind(math.sqrt(squared)), margins[lane, 0], slope[lane]
        slope[lane], residual[lane], curved[lane] = steep, infinite, False
        if not (steep > zero and math.isfinite(steep) and math.isfinite(margin)):
            weight[lane] = zero
            continue
        bend = abs(steep / before - one)
        curved[lane] = bend > kind(bend_from) and bend < kind(bend_to)
        unit = one / steep
        excess = margin * unit
        descent *= unit

        tau = one + excess / max(descent, tiny)  # (4)
        off = abs(tau - one) if descent > zero else infinite
        near = off < kind(near_within)
        if near:
            enlarged = one + kind(doubt_weight) * off * off
            reached = tau * length[lane] * enlarged  # (5)
            merit[lane] = min(merit[lane], reached)
            if reached < best[row[lane]]:
                best[row[lane]], crossing[row[lane]], doubt[row[lane]] = reached, tau, enlarged
                for i in range(n):
                    ends[row[lane], i] = at[i]

        multiplier = multipliers[lane, 0]  # (2), λ‖g‖
        shift, along = multiplier * unit, zero
        for i in range(n):
            along += normal[i] * (_projected(clean[i], shift, normal[i], lower, upper) - at[i])
        along *= unit
        share = one
        if multiplier > zero:
            share = min(max((descent - along) / multiplier, kind(min_share)), one)
        multiplier = max(multiplier + (along + (zero if near else excess)) / share, zero)
        multipliers[lane, 0] = multiplier
        shift = multiplier * unit

        moved, far = zero, zero
        if near:  # (3)
            total = momentum * weight[lane] + one - momentum
            fresh = (one - momentum) / total
            if not weight[lane] > zero:
                fresh = one
                for i in range(n):
                    average[i] = zero
            weight[lane] = total
            back = excess * unit * (kind(return_gain) if excess > zero else one)
            for i in range(n):
                move = _projected(clean[i], shift, normal[i], lower, upper) - at[i]
                moved += move * move
                average[i] += fresh * (move - average[i])
                at[i] = min(max(at[i] + step * average[i] - back * normal[i], lower), upper)
                far += (at[i] - clean[i]) * (at[i] - clean[i])
            residual[lane] = (kind(math.sqrt(moved)) + abs(excess)) / max(length[lane], tiny)
        else:
            weight[lane] = zero
            for i in range(n):
                average[i] = _projected(clean[i], shift, normal[i], lower, upper) - at[i]
                moved += average[i] * average[i]
            scale = min(cap[lane] / max(kind(math.sqrt(moved)), tiny), one)
            for i in range(n):
                at[i] = min(max(at[i] + scale * average[i], lower), upper)
                far += (at[i] - clean[i]) * (at[i] - clean[i])
        length[lane] = math.sqrt(far)


@loop
def update(
    logits: Array, away: Array, targeted: bool, rounding: Array, row: Array, rivals: Array, x: Array, l2: Array,
    safety: float, best_x: Array, best_l2: Array, evaluations: Array, margins: Array, weights: Array,
) -> None:  # fmt: skip
    """Judge evaluated points and keep the closest; see `best.BestSoFar.update`. No rivals stand for the strongest."""
    kind = logits.dtype.type
    classes, given = logits.shape[1], rivals.shape[1]
    sign = kind(-1) if targeted else kind(1)
    for lane in range(len(row)):
        image, z = row[lane], logits[lane]
        own = away[image]
        strongest, sound = -1, True
        for j in range(classes):
            sound = sound and not math.isnan(z[j])
            weights[lane, j] = kind(0)
            if j != own and (strongest < 0 or z[j] > z[strongest]):
                strongest = j
        allowance = rounding[image] if sound else kind(np.nan)
        evaluations[image] += 1
        met = strongest >= 0 and sign * (z[own] - z[strongest]) <= -allowance
        if met and l2[lane] < best_l2[image]:
            best_l2[image] = l2[lane]
            for i in range(x.shape[1]):
                best_x[image, i] = x[lane, i]
        first = 0
        for j in range(given):
            margins[lane, j] = sign * (z[own] - z[rivals[lane, j]]) + kind(safety) * allowance
            if not margins[lane, j] <= margins[lane, first]:
                first = j
        if not given:
            margins[lane, 0] = sign * (z[own] - z[strongest]) + kind(safety) * allowance
        rival = rivals[lane, first] if given else strongest
        weights[lane, own] += sign
        weights[lane, rival] -= sign


@loop
def reach(
    images: Array, row: Array, normals: Array, gaps: Array, lower: float, upper: float, newton_steps: int,
    multiplier: Array, slope: Array, distance: Array, gain: Array,
) -> None:  # fmt: skip
    """How far the linearised boundaries are within the box; see `rays.reach`."""
    kind = images.dtype.type
    zero, lower, upper = kind(0), kind(lower), kind(upper)
    n = images.shape[1]
    for place in range(len(row)):
        clean, normal, gap = images[row[place]], normals[row[place]], gaps[place]
        steep = zero
        for i in range(n):
            steep += normal[i] * normal[i]
        multiplier[place], slope[place], distance[place], gain[place] = zero, zero, kind(np.inf), zero
        if not (steep > zero and math.isfinite(steep) and math.isfinite(gap)):
            continue
        slope[place], dual = math.sqrt(steep), max(gap / steep, zero)
        for _ in range(newton_steps):
            gained, steep = zero, zero
            for i in range(n):
                boxed = _projected(clean[i], dual, normal[i], lower, upper)
                gained += normal[i] * (boxed - clean[i])
                steep += normal[i] * normal[i] if boxed == clean[i] - dual * normal[i] else zero
            if steep > zero:
                dual = max(dual + (gap + gained) / steep, zero)
        gained, squared = zero, zero
        for i in range(n):
            move = _projected(clean[i], dual, normal[i], lower, upper) - clean[i]
            gained += normal[i] * move
            squared += move * move
        multiplier[place], distance[place], gain[place] = dual, math.sqrt(squared), gained


@loop
def toward(
    images: Array, row: Array, lanes: Array, normals: Array, multipliers: Array, shares: Array, lower: float,
    upper: float, x: Array, length: Array,
) -> None:  # fmt: skip
    """Points on the way to the clean images' projections; see `rays.toward`."""
    kind = images.dtype.type
    lower, upper = kind(lower), kind(upper)
    for lane in lanes:
        clean, normal, at, far = images[row[lane]], normals[row[lane]], x[lane], kind(0)
        dual, part = multipliers[lane], shares[lane]
        for i in range(images.shape[1]):
            move = _projected(clean[i], dual, normal[i], lower, upper) - clean[i] if dual > kind(0) else kind(0)
            at[i] = min(max(clean[i] + part * move, lower), upper)
            far += (at[i] - clean[i]) * (at[i] - clean[i])
        length[lane] = math.sqrt(far)


@loop
def along(
    images: Array, row: Array, ends: Array, scale: Array, lower: float, upper: float, x: Array, length: Array
) -> None:
    """Points on the rays from the clean images; see `rays.along`."""
    kind = images.dtype.type
    lower, upper = kind(lower), kind(upper)
    for lane in range(len(row)):
        clean, end, at, far = images[row[lane]], ends[lane], x[lane], kind(0)
        for i in range(images.shape[1]):
            at[i] = min(max(clean[i] + scale[lane] * (end[i] - clean[i]), lower), upper)
            far += (at[i] - clean[i]) * (at[i] - clean[i])
        length[lane] = math.sqrt(far)
