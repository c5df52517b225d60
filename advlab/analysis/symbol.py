"""A convolution on a torus as one small matrix per frequency.

A convolution with stride s sends the input's s^d polyphase components, each on the output's grid, to the output: a
convolution of stride 1 with C·s^d input channels. The Fourier transform block-diagonalises that, exactly: the singular
values of the whole layer are those of the blocks A(ω), one per frequency of the output's grid. (Sedghi, Gupta & Long
2019 for stride 1; section 4.3 of the paper has the matrix for any stride, see docs/ERRATA.md for its normalisation.)

Shapes: G groups, Q taps, F outputs and C inputs of a group, P = C·s^d, W frequencies.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

CHUNK = 1 << 23
"""Matrix entries computed at a time: 128 MB of complex numbers."""


@dataclass(frozen=True)
class BlockSymbol:
    """The blocks of a layer before the Fourier transform over its few taps [G, Q, F, P] float64, at positions
    ``offsets_Qd`` [Q, d] int64 on the output's ``grid``, its size on the torus per axis.
    """

    taps_GQFP: Tensor
    offsets_Qd: Tensor
    grid: tuple[int, ...]

    @property
    def side(self) -> int:
        """The number of singular values of a block."""
        return min(self.taps_GQFP.shape[2:])

    @property
    def injective(self) -> bool:
        """Whether a block has at least as many outputs as inputs."""
        outputs, inputs = self.taps_GQFP.shape[2:]
        return outputs >= inputs

    @cached_property
    def frequencies(self) -> tuple[Tensor, Tensor]:
        """Angles [W, d] in radians, one for each set of blocks with equal singular values, and these sets' sizes [W].

        Real kernels have conjugate blocks at ω and -ω, and along an axis with a single tap all blocks are equal.
        """
        varying = [len(self.offsets_Qd[:, axis].unique()) > 1 for axis in range(len(self.grid))]
        sizes = torch.tensor([size if varies else 1 for size, varies in zip(self.grid, varying, strict=True)])
        alike = math.prod(self.grid) // int(sizes.prod())
        index = torch.cartesian_prod(*[torch.arange(int(size)) for size in sizes]).view(-1, len(self.grid))
        own = torch.arange(len(index))
        mirrored = torch.from_numpy(np.ravel_multi_index((-index % sizes).T.numpy(), sizes.tolist()))
        kept = own <= mirrored
        angles = 2 * math.pi * index[kept].double() / torch.tensor(self.grid)
        return angles, alike * torch.where(own == mirrored, 1, 2)[kept]

    def blocks(self, angles_Wd: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """A(ω) at any angles, [G, W, F, P], complex of the precision asked for."""
        return _transform(angles_Wd @ self.offsets_Qd.double().T, self.taps_GQFP.to(dtype))

    def grams(self, angles_Wd: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """The smaller of A(ω)* A(ω) and A(ω) A(ω)*, [G, W, side, side], complex of the precision asked for: products of
        blocks, or the transform of the taps' correlations, which is cheaper where there are few taps compared with
        channels.
        """
        if self._correlations is None:
            blocks = self.blocks(angles_Wd, dtype)
            return blocks.mH @ blocks if self.injective else blocks @ blocks.mH
        taps, lags = self._correlations
        return _transform(angles_Wd @ lags.T, taps.to(dtype))

    @property
    def terms(self) -> int:
        """The number of rounded matrices that a Gram matrix is the sum of."""
        return len(self.offsets_Qd if self._correlations is None else self._correlations[1])

    @cached_property
    def _correlations(self) -> tuple[Tensor, Tensor] | None:
        """Taps [G, L, side, side] of the Gram matrix and their lags [L, d]; None if products of blocks are cheaper."""
        groups, taps, outputs, inputs = self.taps_GQFP.shape
        side, other = self.side, max(outputs, inputs)
        frequencies = len(self.frequencies[0])
        lags_QQd = self.offsets_Qd[None, :, :] - self.offsets_Qd[:, None, :]
        lags, which = lags_QQd.reshape(taps * taps, -1).unique(dim=0, return_inverse=True)
        by_blocks = frequencies * (8 * side * other + 4 * taps * other)
        by_lags = 2 * taps * taps * side * other + frequencies * 4 * len(lags) * side
        if by_lags > by_blocks or groups * (taps * side) ** 2 > 4 * CHUNK:
            return None
        flat = (self.taps_GQFP.mT if self.injective else self.taps_GQFP).reshape(groups, taps * side, other)
        pairs = (flat @ flat.mT).view(groups, taps, side, taps, side).transpose(2, 3)
        summed = flat.new_zeros(groups, len(lags), side, side)
        summed.index_add_(1, which, pairs.reshape(groups, taps * taps, side, side))
        # A A* has conj(e^{iωq'}) on the second factor where A* A has it on the first
        return summed, (lags if self.injective else -lags).double()


def polyphase(
    weight: Tensor, stride: tuple[int, ...], dilation: tuple[int, ...], groups: int, grid: tuple[int, ...]
) -> BlockSymbol:
    """The symbol of a convolution ``weight`` [F·G, C, k1, …, kd]; ``grid`` is the output's size on the torus per axis,
    and the input's is the stride times that.
    """
    kernel = weight.shape[2:]
    step, size = torch.tensor(stride), torch.tensor(grid)
    position = torch.cartesian_prod(*[torch.arange(k) for k in kernel]).view(-1, len(kernel)) * torch.tensor(dilation)
    coarse, phase = position // step % size, position % step
    offsets, tap = coarse.unique(dim=0, return_inverse=True)
    phases = math.prod(stride)
    flat_phase = torch.from_numpy(np.ravel_multi_index(phase.T.numpy(), stride))
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    taps = torch.zeros(len(offsets) * phases, groups, outputs, inputs, dtype=torch.float64)
    values = weight.detach().cpu().double().reshape(groups, outputs, inputs, -1).permute(3, 0, 1, 2)
    taps.index_add_(0, tap * phases + flat_phase, values)
    taps = taps.view(len(offsets), phases, groups, outputs, inputs).permute(2, 0, 3, 4, 1)
    return BlockSymbol(taps.reshape(groups, len(offsets), outputs, inputs * phases), offsets, grid)


def _transform(phase_WQ: Tensor, taps_GQmn: Tensor) -> Tensor:
    """Σ_q taps_q e^{iφ}, [G, W, m, n], in the taps' precision; with so few taps a matrix product beats an FFT."""
    groups, taps, m, n = taps_GQmn.shape
    flat = taps_GQmn.reshape(groups, taps, m * n)
    cosine, sine = phase_WQ.cos().to(flat), phase_WQ.sin().to(flat)
    return torch.complex(cosine @ flat, sine @ flat).view(groups, len(phase_WQ), m, n)
