"""A batch of limited-memory inverse Hessians in the compact form of Byrd, Nocedal & Schnabel (1994).

Shapes: B problems, M slots of the circular memory, N variables. Each problem has its own memory::

    H = (I − Y T Sᵀ)ᵀ γ (I − Y T Sᵀ) + S Tᵀ D T Sᵀ,    T = R⁻¹,  R = triu(SᵀY),  D = diag(SᵀY)

which is their equation 3.13 with the terms collected, pairs in chronological order. R is never formed: appending a
pair appends a column to T and forgetting the oldest pair deletes its row and column, so T can be kept in the order of
the slots, with zeros where a slot is empty, whatever the age of its neighbours. Whatever rounding does to T, H stays
positive semidefinite, and H y = s holds for the newest pair by construction.

A product with H reads the memory twice; the products of a new y with all pairs share the first of these passes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(slots=True)
class Curvature:
    """The memories of B problems.

    Attributes:
        pairs: [B, 2, M, N]; ``pairs[:, 0]`` holds the steps s, ``pairs[:, 1]`` the gradient changes y.
        t: [B, M, M], T in the order of the slots.
        yy: [B, M, M], YᵀY.
        sy: [B, M], the diagonal of SᵀY.
        slot: [B] int64, where the next pair goes; this slot never takes part in H, so M − 1 pairs do.
        gamma: [B], the scale of the initial matrix γI: sᵀy / yᵀy of the newest pair.
        empty: [B] bool, no pair is held and H = γI.
    """

    pairs: Tensor
    t: Tensor
    yy: Tensor
    sy: Tensor
    slot: Tensor
    gamma: Tensor
    empty: Tensor

    @classmethod
    def allocate(cls, num_problems: int, num_variables: int, history: int, like: Tensor) -> Curvature:
        """Empty memories for ``history`` pairs each, on the device and in the dtype of ``like``."""
        num_slots = history + 1
        return cls(
            pairs=like.new_zeros(num_problems, 2, num_slots, num_variables),
            t=like.new_zeros(num_problems, num_slots, num_slots),
            yy=like.new_zeros(num_problems, num_slots, num_slots),
            sy=like.new_zeros(num_problems, num_slots),
            slot=torch.zeros(num_problems, dtype=torch.int64, device=like.device),
            gamma=like.new_ones(num_problems),
            empty=torch.ones(num_problems, dtype=torch.bool, device=like.device),
        )

    def forget(self, which: Tensor) -> None:
        """Empty the memories where ``which`` [B] is true: H = I."""
        self.t.masked_fill_(which[:, None, None], 0)
        self.gamma.masked_fill_(which, 1)
        self.empty |= which

    def offer(self, s: Tensor, y: Tensor) -> None:
        """Write the pair s, y [B, N] into the spare slots; H does not change before :meth:`take`."""
        problem = torch.arange(len(s), device=s.device)
        self.pairs[problem, 0, self.slot] = s
        self.pairs[problem, 1, self.slot] = y

    def products(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Sᵀv and Yᵀv [B, K, M] of the K rows of ``vectors`` [B, K, N], in one pass over the memory."""
        both = torch.bmm(vectors, self.pairs.flatten(1, 2).mT)
        num_slots = self.pairs.shape[2]
        return both[..., :num_slots], both[..., num_slots:]

    def take(self, which: Tensor, s_y: Tensor, y_y: Tensor) -> None:
        """Append the offered pairs where ``which`` [B] is true, forgetting the oldest pair of a full memory.

        Args:
            which: [B] bool; sᵀy > 0 must hold there.
            s_y, y_y: [B, M], the products Sᵀy and Yᵀy with the offered y.
        """
        slots = torch.arange(self.pairs.shape[2], device=s_y.device)
        here = (slots == self.slot[:, None]) & which[:, None]
        diagonal = s_y.gather(1, self.slot[:, None])
        scale = y_y.gather(1, self.slot[:, None])
        column = torch.where(here, 1.0, -torch.bmm(self.t, s_y[:, :, None]).squeeze(2)) / diagonal
        self.t = torch.where(here[:, None, :], column[:, :, None], self.t)
        self.yy = torch.where(here[:, None, :], y_y[:, :, None], self.yy)
        self.yy = torch.where(here[:, :, None], y_y[:, None, :], self.yy)
        self.sy = torch.where(here, diagonal, self.sy)
        self.gamma = torch.where(which, (diagonal / scale).squeeze(1), self.gamma)
        self.empty &= ~which
        self.slot = (self.slot + which) % len(slots)
        spare = slots == self.slot[:, None]
        self.t = self.t.masked_fill(spare[:, :, None] | spare[:, None, :], 0)

    def correction(self, s_v: Tensor, y_v: Tensor) -> Tensor:
        """(H − γI) v [B, N], from the products Sᵀv and Yᵀv [B, M]."""
        gamma = self.gamma[:, None]
        u = torch.bmm(self.t, s_v[:, :, None])
        w = self.sy * u.squeeze(2) + gamma * (torch.bmm(self.yy, u).squeeze(2) - y_v)
        on_s = torch.bmm(w[:, None, :], self.t)
        on_y = -gamma[:, None] * u.mT
        return torch.bmm(torch.cat((on_s, on_y), 2), self.pairs.flatten(1, 2)).squeeze(1)

    def apply(self, v: Tensor) -> Tensor:
        """H v [B, N]."""
        s_v, y_v = self.products(v[:, None, :])
        return self.gamma[:, None] * v + self.correction(s_v[:, 0], y_v[:, 0])
