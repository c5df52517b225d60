"""A batch of limited-memory inverse Hessians in the compact form of Byrd, Nocedal & Schnabel (1994).

Shapes: B problems, M slots of the circular memory, N variables. Each problem has its own memory of steps s and
gradient changes y, the columns of S and Y::

    H = (I − S Tᵀ Yᵀ) γ (I − Y T Sᵀ) + S Tᵀ D T Sᵀ,    T = R⁻¹,  R = triu(SᵀY),  D = diag(SᵀY)

which is their equation (3.1) with its terms collected, the pairs in chronological order. R itself is never formed:
appending a pair appends a column to T, forgetting the oldest one deletes the first row and column of T. So T is kept
in the order of the slots, zero in the row and column of an empty slot, and no reordering is ever needed. Whatever
rounding does to T, H stays positive semidefinite, and H y = s holds for the newest pair by construction.

All problems write into the same slot at the same time, those with nothing to learn leave it empty; slots are
therefore plain slices. A product with H reads the memory twice, and the products of a new y with all pairs ride along
with the first pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(slots=True)
class Curvature:
    """The memories of B problems.

    Attributes:
        pairs: [B, M, 2, N]; ``pairs[:, :, 0]`` holds the gradient changes y, ``pairs[:, :, 1]`` the steps s.
        t: [B, M, M], T in the order of the slots.
        yy: [B, M, M], YᵀY.
        sy: [B, M], the diagonal D.
        gamma: [B], the scale γ of the initial matrix γI: sᵀy / yᵀy of the newest pair.
        empty: [B] bool, no pair was learnt yet and H = I.
        slot: the slot written last.
        used: no slot from here on was ever written, so products leave them out.
    """

    pairs: Tensor
    t: Tensor
    yy: Tensor
    sy: Tensor
    gamma: Tensor
    empty: Tensor
    slot: int = -1
    used: int = 0

    @classmethod
    def allocate(cls, num_problems: int, history: int, like: Tensor) -> Curvature:
        """Empty memories of ``history`` slots; ``like`` [..., N] gives N, device and dtype."""
        return cls(
            pairs=like.new_zeros(num_problems, history, 2, like.shape[-1]),
            t=like.new_zeros(num_problems, history, history),
            yy=like.new_zeros(num_problems, history, history),
            sy=like.new_zeros(num_problems, history),
            gamma=like.new_ones(num_problems),
            empty=torch.ones(num_problems, dtype=torch.bool, device=like.device),
        )

    def forget(self, which: Tensor) -> None:
        """Empty the memories where ``which`` [B] is true, so that H = I."""
        self.t.masked_fill_(which[:, None, None], 0)
        self.gamma.masked_fill_(which, 1)
        self.empty.logical_or_(which)

    def next_slot(self) -> tuple[Tensor, Tensor]:
        """Views y, s [B, N] of the next slot, to be filled; its old pair leaves H."""
        self.slot = (self.slot + 1) % self.pairs.shape[1]
        self.used = max(self.used, self.slot + 1)
        self.t[:, self.slot] = 0
        self.t[:, :, self.slot] = 0
        y, s = self.pairs[:, self.slot].unbind(1)
        return y, s

    def products(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Yᵀv and Sᵀv, [B, K, used] each, of the rows of ``vectors`` [B, K, N], in one pass over the memory."""
        both = torch.bmm(self._used(), vectors.mT).mT.nan_to_num_(0, 0, 0)  # an empty slot may hold anything finite
        return both[..., ::2], both[..., 1::2]

    def learn(self, which: Tensor, y_y: Tensor, s_y: Tensor) -> None:
        """Take the pairs written to the newest slot into H.

        Args:
            which: [B] bool, the problems that learn; sᵀy > 0 must hold there.
            y_y, s_y: [B, used], the products Yᵀy and Sᵀy with the newest y.
        """
        newest = self.slot
        diagonal = s_y[:, newest]
        weight = torch.where(which, 1 / diagonal, 0)
        column = torch.bmm(self.t[:, : self.used, : self.used], s_y[:, :, None]).squeeze(2)
        column[:, newest] = -1
        self.t[:, : self.used, newest] = column * -weight[:, None]
        self.yy[:, newest, : self.used] = y_y
        self.yy[:, : self.used, newest] = y_y
        self.sy[:, newest] = diagonal
        self.gamma = torch.where(which, diagonal / y_y[:, newest], self.gamma)
        self.empty = self.empty & ~which

    def correction(self, y_v: Tensor, s_v: Tensor) -> Tensor:
        """(γI − H) v [B, N], from the products Yᵀv and Sᵀv [B, used]."""
        used = slice(self.used)
        t = self.t[:, used, used]
        u = torch.bmm(t, s_v[:, :, None])
        on_y = self.gamma[:, None] * u.squeeze(2)
        w = self.gamma[:, None] * y_v - torch.bmm(self.yy[:, used, used], on_y[:, :, None]).squeeze(2)
        on_s = torch.bmm((w - self.sy[:, used] * u.squeeze(2))[:, None], t).squeeze(1)
        return torch.bmm(torch.stack((on_y, on_s), 2).view(len(u), 1, -1), self._used()).squeeze(1)

    def apply(self, v: Tensor) -> Tensor:
        """H v [B, N]."""
        y_v, s_v = self.products(v[:, None, :])
        return self.gamma[:, None] * v - self.correction(y_v[:, 0], s_v[:, 0])

    def _used(self) -> Tensor:
        """[B, 2·used, N]: a view of the slots in use, y and s taking turns."""
        return self.pairs.flatten(1, 2)[:, : 2 * self.used]
