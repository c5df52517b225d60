"""Compiled loop over penalised problems: what `penalised.Problems` computes with whole arrays, on the CPU."""

import math

from advlab.compiled import Array, loop


@loop
def penalise(
    x: Array, clean: Array, row: Array, c: Array, plain: bool, rounded: float, of_loss: Array, squared: Array,
    gradient: Array,
) -> None:  # fmt: skip
    """‖r‖² of r = x − clean, and the gradient of the loss with c ∇D added; see `penalised`."""
    zero = x.dtype.type(0)
    for place in range(len(row)):
        total, image = zero, clean[row[place]]
        for i in range(x.shape[1]):
            total += (x[place, i] - image[i]) * (x[place, i] - image[i])
        squared[place] = total
        factor = x.dtype.type(1 / math.sqrt(total + rounded * rounded) if plain else 2) * c[place]
        for i in range(x.shape[1]):
            gradient[place, i] = of_loss[place, i] + factor * (x[place, i] - image[i])
