"""The loop over problems, compiled for the processor, that does what `penalised` does."""

import math

from advlab.compiled import Array, loop


@loop
def penalise(
    x: Array,
    clean: Array,
    row: Array,
    weight: Array,
    plain: bool,
    rounded: float,
    losses: Array,
    squared: Array,
    gradient: Array,
) -> None:
    """Squared distances, and their weighted gradients added to those of the losses; see `penalised.Problems`."""
    zero = x.dtype.type(0)
    for place in range(len(row)):
        total, image = zero, clean[row[place]]
        for i in range(x.shape[1]):
            total += (x[place, i] - image[i]) * (x[place, i] - image[i])
        squared[place] = total
        factor = x.dtype.type(1 / math.sqrt(total + rounded * rounded) if plain else 2) * weight[place]
        for i in range(x.shape[1]):
            gradient[place, i] = losses[place, i] + factor * (x[place, i] - image[i])
