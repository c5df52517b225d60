"""Smallest and largest singular value over all blocks of a layer, accurate to 1e-9 relative.

Few blocks need to be diagonalised. A Cholesky decomposition of τ1 - G, an order of magnitude cheaper, decides whether
any eigenvalue of a Gram matrix G exceeds τ; so blocks are diagonalised in random order, and those that cannot beat the
best so far are discarded. The expected number left is the logarithm of the number of blocks. Nothing is approximated.
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from advlab.analysis.symbol import CHUNK, BlockSymbol

EPSILON, SINGLE_EPSILON = torch.finfo(torch.float64).eps, torch.finfo(torch.float32).eps

DIRECT = 512
"""Largest side whose Gram matrix is diagonalised; for larger ones Lanczos finds the two extremes only."""
LANCZOS_TOLERANCE = 1e-10
"""Relative tolerance of the eigenvalues σ² that Lanczos finds; σ then has half of that error."""
GOOD_ENOUGH = 5e-10
"""Relative error of σ² below which the smallest eigenvalue of a Gram matrix is accepted."""
OBLONG = 1.5
"""Ratio of sides above which the Gram matrix of a large block is tried before its QR decomposition: half the work."""


def extremes(symbol: BlockSymbol, *, need_lower: bool = True) -> tuple[float, float]:
    """Smallest and largest singular value; the smallest of min(outputs, inputs) per block.

    A Gram matrix gives the largest to machine precision, and the smallest with an absolute error in σ². So blocks that
    may hold the smallest are decomposed again, by an SVD of the block itself. Without ``need_lower``, it is 0.
    """
    if not symbol.taps_GQFP.any():
        return 0.0, 0.0
    angles, groups = symbol.frequencies[0], len(symbol.taps_GQFP)
    if groups * len(angles) == 1:
        block = _block(symbol, 0, angles[0])
        return _ends_of(block) if need_lower else (0.0, _norm_of(block))
    search = _Search(symbol)
    if need_lower and search.has_zero():
        search.low = 0.0
        need_lower = False
    parts = _chunks(symbol)
    for part in parts:
        blocks = _Blocks(symbol, part, need_lower=need_lower)
        search.raise_high(blocks)
        if need_lower:
            search.sink_low(blocks)
    if not need_lower:
        return 0.0, search.high**0.5
    if search.error <= GOOD_ENOUGH * search.low:
        return search.low**0.5, search.high**0.5
    lower = float("inf")
    for part in parts:
        blocks = blocks if len(parts) == 1 else _Blocks(symbol, part)
        for row in search.near_low(blocks):
            lower = min(lower, _ends_of(_block(symbol, *blocks.place(row)))[0])
    return lower, search.high**0.5


class _Blocks:
    """Gram matrices [N, side, side] of groups x frequencies; if only the largest is wanted, double on demand."""

    def __init__(self, symbol: BlockSymbol, angles: Tensor, *, need_lower: bool = True) -> None:
        self.symbol, self.angles, self.need_lower = symbol, angles, need_lower
        self._all = symbol.grams(angles).flatten(0, 1) if need_lower else None
        self.single = (
            symbol.grams(angles, torch.float32).flatten(0, 1) if self._all is None else self._all.to(torch.complex64)
        )

    def __len__(self) -> int:
        return len(self.single)

    def grams(self, rows: Tensor) -> Tensor:
        """Gram matrices in double precision; a copy."""
        if self._all is not None:
            return self._all[rows]
        groups, frequencies = rows // len(self.angles), rows % len(self.angles)
        used, which = frequencies.unique(return_inverse=True)
        return self.symbol.grams(self.angles[used])[groups, which]

    def squares(self, row: int) -> tuple[float, float]:
        """The smallest (0 if it was not asked for) and the largest eigenvalue of one Gram matrix."""
        if self.symbol.side > DIRECT:
            block = _block(self.symbol, *self.place(row))
            low, high = _ends_of(block) if self.need_lower else (0.0, _norm_of(block))
            return low**2, high**2
        values = torch.linalg.eigvalsh(self.grams(torch.tensor([row]))[0])
        return max(0.0, float(values[0])), max(0.0, float(values[-1]))

    def place(self, row: int) -> tuple[int, Tensor]:
        """Group and angles of a Gram matrix."""
        group, frequency = divmod(row, len(self.angles))
        return group, self.angles[frequency]


class _Search:
    """The best squares so far."""

    def __init__(self, symbol: BlockSymbol) -> None:
        self.symbol, self.low, self.high = symbol, float("inf"), 0.0
        self._random = torch.Generator().manual_seed(0)

    @property
    def error(self) -> float:
        """Of a Gram matrix's eigenvalues."""
        return 4 * self.symbol.side * EPSILON * self.high

    def has_zero(self) -> bool:
        """Whether a channel on the smaller side is dead, which makes every block singular."""
        taps = self.symbol.taps_GQFP
        return bool((taps.abs().amax((1, 2) if self.symbol.injective else (1, 3)) == 0).any())

    def raise_high(self, blocks: _Blocks) -> None:
        self._look(blocks, lambda rows: _unproven(blocks, rows, -1, self.high, self.error))

    def sink_low(self, blocks: _Blocks) -> None:
        def may_undercut(rows: Tensor) -> Tensor:
            # no eigenvalue is negative, so nothing undercuts a lowest value that is 0 up to rounding
            return _unproven(blocks, rows, 1, self.low, self.error) if self.low > self.error else rows[:0]

        self._look(blocks, may_undercut)

    def near_low(self, blocks: _Blocks) -> list[int]:
        """The blocks whose smallest eigenvalue is the lowest, up to rounding."""
        near = ~_is_definite(blocks.grams(torch.arange(len(blocks))), -self.low - 2 * self.error)
        return near.nonzero()[:, 0].tolist()

    def _look(self, blocks: _Blocks, may_beat: Callable[[Tensor], Tensor]) -> None:
        """Diagonalise random blocks until none may beat the best; batches double, so few are tested twice."""
        order = torch.randperm(len(blocks), generator=self._random)
        first, size = 0, 1
        while first < len(order):
            rows = order[first : first + size]
            first, size = first + size, 2 * size
            while len(rows):
                if self.high:
                    rows = may_beat(rows)
                    if not len(rows):
                        break
                low, high = blocks.squares(int(rows[0]))
                self.low, self.high = min(self.low, low), max(self.high, high)
                rows = rows[1:]


def _block(symbol: BlockSymbol, group: int, angle_d: Tensor) -> Tensor:
    """One block [F, P]; of real dtype if its imaginary part is zero."""
    one = BlockSymbol(symbol.taps_GQFP[group, None], symbol.offsets_Qd, symbol.grid)
    block = one.blocks(angle_d[None])[0, 0]
    return block if block.imag.any() else block.real.contiguous()  # a view would be copied by every product


def _ends_of(block: Tensor) -> tuple[float, float]:
    """Smallest and largest singular value of one block, computed without squaring it."""
    if min(block.shape) > DIRECT:
        return _lanczos(block)
    values = torch.linalg.svdvals(block)
    return float(values[-1]), float(values[0])


def _norm_of(block: Tensor) -> float:
    """The largest singular value of one block."""
    if min(block.shape) <= DIRECT:
        return float(torch.linalg.svdvals(block)[0])
    tall = block if block.shape[0] >= block.shape[1] else block.mH
    return _largest(lambda x: tall.mH @ (tall @ x), tall.shape[1], block) ** 0.5


def _unproven(blocks: _Blocks, rows: Tensor, sign: int, best: float, error: float) -> Tensor:
    """The rows that may have an eigenvalue beyond the best by more than the error: above it (-1) or below it (+1)."""
    # single precision settles most: shifted by its rounding error, its decomposition proves the same as one in double
    rounding = error * (1 + blocks.symbol.terms / blocks.symbol.side) * SINGLE_EPSILON / EPSILON
    if rounding < best:
        rows = rows[~_is_definite(sign * blocks.single[rows], -sign * best - rounding)]
    return rows[~_is_definite(sign * blocks.grams(rows), -sign * best + error)] if len(rows) else rows


def _is_definite(matrices: Tensor, shift: float) -> Tensor:
    """Whether matrices [N, side, side] + shift·1 are positive definite, [N] bool; the matrices are overwritten."""
    matrices.diagonal(dim1=-2, dim2=-1).add_(shift)
    if matrices.shape[-1] == 1:
        return matrices.real[:, 0, 0] > 0
    return torch.linalg.cholesky_ex(matrices).info == 0


def all_values(symbol: BlockSymbol) -> tuple[np.ndarray, np.ndarray]:
    """All distinct singular values, ascending, with their multiplicities, for plots.

    The absolute error is 1e-8 of the largest, and 1e-3 above ``DIRECT``, where single precision halves the time.
    """
    angles, groups = symbol.frequencies[0], len(symbol.taps_GQFP)
    if groups * len(angles) == 1:
        block = _block(symbol, 0, angles[0])
        small = block if symbol.injective else block.mH
        squares = _spectrum((small.mH @ small)[None, None])
    else:
        squares = torch.cat([_spectrum(symbol.grams(part)) for part in _chunks(symbol)], dim=1)
    values = squares.double().clamp(min=0).sqrt().numpy()
    counts = np.broadcast_to(symbol.frequencies[1].numpy()[:, None], values.shape).ravel()
    order = np.argsort(values, axis=None)
    return values.ravel()[order], counts[order]


def _spectrum(grams: Tensor) -> Tensor:
    side = grams.shape[-1]
    if side == 1:
        return grams.real[..., 0]
    if side > DIRECT:
        grams = grams.to(torch.complex64 if grams.is_complex() else torch.float32)
    return torch.linalg.eigvalsh(grams)


def _chunks(symbol: BlockSymbol) -> tuple[Tensor, ...]:
    groups, _, outputs, inputs = symbol.taps_GQFP.shape
    return symbol.frequencies[0].split(max(1, CHUNK // (groups * outputs * inputs)))


def _lanczos(block: Tensor) -> tuple[float, float]:
    """The extremes of one large block: Lanczos on R*R and its inverse; R is triangular and as well conditioned."""
    tall = block if block.shape[0] >= block.shape[1] else block.mH
    if tall.shape[0] > OBLONG * tall.shape[1] and not tall.is_complex():
        array = tall.numpy()
        gram = torch.from_numpy(array.T @ array)  # NumPy computes half of a symmetric product
        factor, info = torch.linalg.cholesky_ex(gram, upper=True)
        if not info:
            low, high = _ends(factor)
            if 4 * len(gram) * EPSILON * high**2 <= GOOD_ENOUGH * low**2:
                return low, high
    return _ends(torch.linalg.qr(tall, mode="r").R)


def _ends(factor: Tensor) -> tuple[float, float]:
    """Smallest and largest singular value of an upper triangular matrix."""

    def backward(x: Tensor) -> Tensor:
        solved = torch.linalg.solve_triangular(factor.mH, x[:, None], upper=False)
        return torch.linalg.solve_triangular(factor, solved, upper=True)[:, 0]

    upper = _largest(lambda x: factor.mH @ (factor @ x), len(factor), factor) ** 0.5
    if not factor.diagonal().all():
        return 0.0, upper
    return _largest(backward, len(factor), factor) ** -0.5, upper


def _largest(apply: Callable[[Tensor], Tensor], side: int, like: Tensor) -> float:
    """The largest eigenvalue of a Hermitian operator on vectors [side] of the data type of ``like``."""
    dtype = like.numpy().dtype
    start = np.random.default_rng(0).standard_normal(side).astype(dtype)

    def multiply(x: np.ndarray) -> np.ndarray:
        return apply(torch.from_numpy(np.ascontiguousarray(x, dtype=dtype).reshape(-1))).numpy()

    operator = LinearOperator((side, side), matvec=multiply, dtype=dtype)
    return float(eigsh(operator, k=1, which="LM", v0=start, tol=LANCZOS_TOLERANCE, return_eigenvectors=False)[0])
