"""Fitting networks in place: full-batch L-BFGS, minibatches, and the sparse autoencoder."""

from advlab.training.full_batch import Progress

__all__ = ["Progress"]
