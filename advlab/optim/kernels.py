"""Compiled loops over problems: what `step`, `batch` and `curvature` compute with whole arrays, on the CPU.

Most of what a round reads is the problems' curvature; a loop brings it into the cache once per round, where operations
on whole arrays read it three times. Tensors that `compiled.fits` refuses take the path of whole arrays; the two are
tested against each other.

Shapes: L live problems, M slots of the circular memory, N variables. Arguments that have the names of attributes of
`batch.Batch` or `curvature.Curvature` are these; boxes may have one row for all problems.
"""

import math

import numpy as np

from advlab.compiled import Array, helper, loop


@loop
def trial(x: Array, direction: Array, step: Array, lower: Array, upper: Array, point: Array) -> None:
    """P(x + step · direction); see `Batch.trial`."""
    for row in range(len(x)):
        low, high = lower[min(row, len(lower) - 1)], upper[min(row, len(upper) - 1)]
        for i in range(x.shape[1]):
            moved = x[row, i] + direction[row, i] * step[row]
            if math.isnan(moved):
                moved = x.dtype.type(0)
            point[row, i] = min(max(moved, low[i]), high[i])


@loop
def compare(
    x: Array, gradient: Array, x_trial: Array, gradient_trial: Array, pairs: Array, slot: int, slope: Array,
    s_y: Array, y_y: Array, total: Array,
) -> None:  # fmt: skip
    """The newest pair of every problem, and its products; see `step._compare`."""
    zero = x.dtype.type(0)
    for row in range(len(x)):
        along, both, square, everything = zero, zero, zero, zero
        y, s = pairs[row, slot, 0], pairs[row, slot, 1]
        # Written here, summed below: a loop that does both is vectorised only where the arrays of all rows lie apart.
        # That depends on the number of rows, and so would the rounding of the sums.
        for i in range(x.shape[1]):
            step = x_trial[row, i] - x[row, i]
            change = gradient_trial[row, i] - gradient[row, i]
            s[i], y[i] = step, zero if step == zero or not math.isfinite(change) else change
        for i in range(x.shape[1]):
            everything += gradient_trial[row, i]
            along += s[i] * gradient[row, i]
            both += s[i] * y[i]
            square += y[i] * y[i]
        slope[row], s_y[row], y_y[row], total[row] = along, both, square, everything


@loop
def move(x: Array, gradient: Array, x_trial: Array, gradient_trial: Array, accepted: Array) -> None:
    """Take the trial points over where they are accepted; see `Batch.move`."""
    zero = x.dtype.type(0)
    for row in range(len(x)):
        if accepted[row]:
            for i in range(x.shape[1]):
                fresh = gradient_trial[row, i]
                x[row, i] = x_trial[row, i]
                gradient[row, i] = fresh if math.isfinite(fresh) else zero


@helper
def _aim(at: Array, slope: Array, scale: float, low: Array, high: Array, downhill: Array, free: Array) -> float:
    """Write −γ g and the free variables of one problem; returns ‖P(x − g) − x‖_∞."""
    zero, one = at.dtype.type(0), at.dtype.type(1)
    largest = zero
    for i in range(len(at)):
        down = -scale * slope[i]
        point = at[i] + down
        downhill[i] = down
        free[i] = one if min(max(point, low[i]), high[i]) == point else zero
        largest = max(largest, abs(min(max(at[i] - slope[i], low[i]), high[i]) - at[i]))
    return largest


@loop
def cauchy(
    x: Array, gradient: Array, gamma: Array, lower: Array, upper: Array, downhill: Array, free: Array, residual: Array
) -> None:
    """−γ g, the free variables, and ‖P(x − g) − x‖_∞; see `step.cauchy`."""
    for row in range(len(x)):
        low, high = lower[min(row, len(lower) - 1)], upper[min(row, len(upper) - 1)]
        residual[row] = _aim(x[row], gradient[row], gamma[row], low, high, downhill[row], free[row])


@loop
def direct(
    learnt: Array, gradient: Array, downhill: Array, free: Array, pairs: Array, lag: Array, t: Array, sy: Array,
    yy: Array, ss: Array, gamma: Array, empty: Array, shiftable: bool, newest: int, used: int, direction: Array,
) -> None:  # fmt: skip
    """Learn the newest pairs and choose the next directions; see `step.direct` and `Curvature.learn`, `correction`."""
    kind = gradient.dtype.type
    zero, one, n = kind(0), kind(1), gradient.shape[1]
    y_y, s_y = np.empty(used, gradient.dtype), np.empty(used, gradient.dtype)
    y_g, s_g = np.empty(used, gradient.dtype), np.empty(used, gradient.dtype)
    u, on_y, w = np.empty(used, gradient.dtype), np.empty(used, gradient.dtype), np.empty(used, gradient.dtype)
    pulled = np.empty(n, gradient.dtype)
    for row in range(len(gradient)):
        for i in range(n):
            pulled[i] = gradient[row, i] * free[row, i]
        y, s, own = pairs[row, newest, 0], pairs[row, newest, 1], lag[row, newest]
        for slot in range(used):
            past_y, past_s = pairs[row, slot, 0], pairs[row, slot, 1]
            y_y_past, y_s_past, s_y_past, s_s_past, g_y_past, g_s_past = zero, zero, zero, zero, zero, zero
            for i in range(n):
                y_y_past += y[i] * past_y[i]
                y_s_past += y[i] * past_s[i]
                s_y_past += s[i] * past_y[i]
                s_s_past += s[i] * past_s[i]
                g_y_past += pulled[i] * past_y[i]
                g_s_past += pulled[i] * past_s[i]
            # an empty slot may hold anything
            y_y_past = y_y_past if math.isfinite(y_y_past) else zero
            y_s_past = y_s_past if math.isfinite(y_s_past) else zero
            s_y_past = s_y_past if math.isfinite(s_y_past) else zero
            s_s_past = s_s_past if math.isfinite(s_s_past) else zero
            g_y_past = g_y_past if math.isfinite(g_y_past) else zero
            g_s_past = g_s_past if math.isfinite(g_s_past) else zero
            y_y[slot], s_y[slot] = y_y_past + lag[row, slot] * y_s_past, y_s_past
            if shiftable:
                crossed = s_y_past + lag[row, slot] * s_s_past
                y_y[slot] += own * crossed
                s_y[slot] += own * s_s_past
                sy[row, newest, slot] = crossed
                ss[row, newest, slot] = ss[row, slot, newest] = s_s_past
            y_g[slot], s_g[slot] = g_y_past + lag[row, slot] * g_s_past, g_s_past
        for slot in range(used):
            sy[row, slot, newest] = s_y[slot]
            yy[row, newest, slot] = yy[row, slot, newest] = y_y[slot]
        if learnt[row]:
            for j in range(used):
                u[j] = zero
                for k in range(used):
                    u[j] += t[row, j, k] * s_y[k]
            u[newest] = -one
            for j in range(used):
                t[row, j, newest] = -u[j] / s_y[newest]
            gamma[row] = s_y[newest] / y_y[newest]
            empty[row] = False

        scale = gamma[row]
        for j in range(used):
            u[j] = zero
            for k in range(used):
                u[j] += t[row, j, k] * s_g[k]
            on_y[j] = scale * u[j]
        for j in range(used):
            w[j] = scale * y_g[j] - sy[row, j, j] * u[j]
            for k in range(used):
                w[j] -= yy[row, j, k] * on_y[k]
        for i in range(n):
            pulled[i] = zero
        for j in range(used):
            on_s = lag[row, j] * on_y[j]
            for k in range(used):
                on_s += t[row, k, j] * w[k]
            past_y, past_s, part = pairs[row, j, 0], pairs[row, j, 1], on_y[j]
            for i in range(n):
                pulled[i] += part * past_y[i] + on_s * past_s[i]
        for i in range(n):
            direction[row, i] = downhill[row, i] + free[row, i] * pulled[i]


@loop
def shift(
    places: Array, by: Array, lag: Array, t: Array, sy: Array, yy: Array, ss: Array, gamma: Array, empty: Array,
    newest: int, used: int,
) -> None:  # fmt: skip
    """Add multiples of I to Hessians; see `Curvature.shift`."""
    kind = sy.dtype.type
    zero, one, eps = kind(0), kind(1), kind(np.finfo(sy.dtype).eps)
    inverse, kept, order = np.empty((used, used), sy.dtype), np.empty(used, np.bool_), np.empty(used, np.int64)
    for place in range(len(places)):
        row, more = places[place], by[place]
        lag_of, t_of, sy_of, yy_of, ss_of = lag[row], t[row], sy[row], yy[row], ss[row]
        for i in range(used):
            lag_of[i] += more
            for j in range(i, used):  # of sy, both (i, j) and (j, i) are read before either is written
                both = yy_of[i, j] + more * (sy_of[i, j] + sy_of[j, i]) + more * more * ss_of[i, j]
                yy_of[i, j] = yy_of[j, i] = both
                sy_of[i, j] += more * ss_of[i, j]
                if i != j:
                    sy_of[j, i] += more * ss_of[j, i]
        last = -1
        for age in range(used):  # the oldest first
            slot = (newest + 1 + age) % used
            order[age] = slot
            kept[age] = t_of[slot, slot] > zero and sy_of[slot, slot] > eps * ss_of[slot, slot]
            if kept[age]:
                last = slot
        for column in range(used):  # R⁻¹, upper triangular, by back substitution
            for i in range(used):
                inverse[i, column] = zero
            if not kept[column]:
                continue
            inverse[column, column] = one / sy_of[order[column], order[column]]
            for i in range(column - 1, -1, -1):
                if kept[i]:
                    total = zero
                    for k in range(i + 1, column + 1):
                        total += sy_of[order[i], order[k]] * inverse[k, column]
                    inverse[i, column] = -total / sy_of[order[i], order[i]]
        for i in range(used):
            for j in range(used):
                t_of[order[i], order[j]] = inverse[i, j]
        gamma[row] = sy_of[last, last] / yy_of[last, last] if last >= 0 else one
        empty[row] = last < 0


@loop
def revise(
    places: Array, by: Array, new_gradient: Array, learnt: Array, x: Array, gradient: Array, downhill: Array,
    free: Array, lower: Array, upper: Array, pairs: Array, slot: int, gamma: Array, residual: Array,
) -> None:  # fmt: skip
    """Take over ``new_gradient`` [K, N] and what follows from it; see `step.revise`. ``learnt`` [L] is corrected."""
    kind = x.dtype.type
    zero, eps = kind(0), kind(np.finfo(x.dtype).eps)
    for place in range(len(places)):
        row, more = places[place], by[place]
        low, high = lower[min(row, len(lower) - 1)], upper[min(row, len(upper) - 1)]
        y, s = pairs[row, slot, 0], pairs[row, slot, 1]
        s_s, s_y, y_y = zero, zero, zero
        for i in range(x.shape[1]):
            s_s += s[i] * s[i]
            s_y += s[i] * y[i]
            y_y += y[i] * y[i]
        y_y += more * (kind(2) * s_y + more * s_s)
        s_y += more * s_s
        learnt[row] = learnt[row] and s_y > eps * s_s
        if learnt[row]:
            gamma[row] = s_y / y_y
        gradient[row] = new_gradient[place]
        residual[place] = _aim(x[row], new_gradient[place], gamma[row], low, high, downhill[row], free[row])
