"""Training of networks in place: full-batch L-BFGS, minibatches, autoencoders, several processes."""

from advlab.training.full_batch import Progress

__all__ = ["Progress"]
