"""Smallest and largest singular value over all blocks of a layer, accurate to 1e-9 relative."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from advlab.analysis.symbol import CHUNK, BlockSymbol

DIRECT = 512
"""Largest side whose Gram matrix is diagonalised; above, Lanczos finds the two ends alone."""
LANCZOS_TOLERANCE = 1e-10
"""Relative, of the eigenvalues σ² that Lanczos finds; σ is then good to half of it."""
GOOD_ENOUGH = 1e-11
"""Relative error of σ at which the root of a Gram matrix's eigenvalue is taken as it is."""


def extremes(symbol: BlockSymbol, *, need_lower: bool = True) -> tuple[float, float]:
    """Smallest and largest singular value; the smallest of min(outputs, inputs) per block.

    The Gram matrix gives the largest to machine precision and the smallest with an absolute error in σ². So the blocks
    that may hold the smallest are decomposed once more, as they are.

    Args:
        symbol: the layer.
        need_lower: without it, the smallest is returned as 0.
    """
    angles, _ = symbol.frequencies
    if symbol.side > DIRECT:
        ends = [_lanczos(block, need_lower) for block in _blocks(symbol, angles)]
        return min(low for low, _ in ends), max(high for _, high in ends)
    squares = torch.cat([_eigenvalues(symbol.grams(part))[..., [0, -1]] for part in _chunks(symbol, angles)], dim=1)
    bottom, top = squares.unbind(-1)
    upper = float(top.max().clamp(min=0).sqrt())
    if not need_lower:
        return 0.0, upper
    error = 4 * symbol.side * torch.finfo(torch.float64).eps * top
    least = (bottom + error).min()
    if float(error.max()) <= GOOD_ENOUGH * float(least):
        return float(bottom.min().sqrt()), upper
    suspects = (bottom - error <= least).nonzero()
    lower = min(
        float(torch.linalg.svdvals(symbol.blocks(angles[frequency, None])[group, 0]).min())
        for group, frequency in suspects.tolist()
    )
    return lower, upper


def all_values(symbol: BlockSymbol) -> tuple[np.ndarray, np.ndarray]:
    """Every singular value, ascending, and how often it occurs, for plots: absolute error 1e-8 of the largest."""
    angles, weight = symbol.frequencies
    squares = torch.cat([_eigenvalues(symbol.grams(part)) for part in _chunks(symbol, angles)], dim=1)
    values = squares.clamp(min=0).sqrt().numpy()
    counts = np.broadcast_to(weight.numpy()[:, None], values.shape).ravel()
    order = np.argsort(values, axis=None)
    return values.ravel()[order], counts[order]


def _eigenvalues(grams: Tensor) -> Tensor:
    if grams.shape[-1] == 1:
        return grams.real[..., 0]
    return torch.linalg.eigvalsh(grams)


def _chunks(symbol: BlockSymbol, angles: Tensor) -> tuple[Tensor, ...]:
    groups, _, outputs, inputs = symbol.taps_GQFP.shape
    return angles.split(max(1, CHUNK // (groups * outputs * inputs)))


def _blocks(symbol: BlockSymbol, angles: Tensor) -> list[Tensor]:
    """Every block; real ones as real matrices."""
    blocks = (block for angle in angles for block in symbol.blocks(angle[None])[:, 0])
    return [block if block.imag.any() else block.real for block in blocks]


def _lanczos(block: Tensor, need_lower: bool) -> tuple[float, float]:
    """The two ends of one large block: Lanczos on R*R and on its inverse, R the triangular factor of the block.

    R has the block's singular values, and solving with it does not square the condition number.
    """
    tall = block if block.shape[0] >= block.shape[1] else block.mH
    factor = torch.linalg.qr(tall, mode="r").R

    def forward(x: Tensor) -> Tensor:
        return factor.mH @ (factor @ x)

    def backward(x: Tensor) -> Tensor:
        solved = torch.linalg.solve_triangular(factor.mH, x[:, None], upper=False)
        return torch.linalg.solve_triangular(factor, solved, upper=True)[:, 0]

    upper = _largest(forward, factor) ** 0.5
    if not need_lower:
        return 0.0, upper
    if not factor.diagonal().all():
        return 0.0, upper
    return _largest(backward, factor) ** -0.5, upper


def _largest(apply: Callable[[Tensor], Tensor], like: Tensor) -> float:
    """The largest eigenvalue of a Hermitian operator."""
    dtype = like.numpy().dtype
    start = np.random.default_rng(0).standard_normal(len(like)).astype(dtype)

    def multiply(x: np.ndarray) -> np.ndarray:
        return apply(torch.from_numpy(np.ascontiguousarray(x, dtype=dtype).reshape(-1))).numpy()

    operator = LinearOperator(tuple(like.shape), matvec=multiply, dtype=dtype)
    return float(eigsh(operator, k=1, which="LM", v0=start, tol=LANCZOS_TOLERANCE, return_eigenvectors=False)[0])
