"""A counter-based random number generator: every number is a hash of an example's key and of its own position, so that
an example's noise is the same on any device and however a batch is split over processes.
"""

from typing import TypeVar

import torch
from torch import Tensor, nn

_MASK = 0xFFFFFFFF
_FACTOR = 0x45D9F3B
_STREAM = 0x9E3779B9
"""Offset between streams: 2³² divided by the golden ratio."""


Bits = TypeVar("Bits", Tensor, int)


def mixed(values: Bits) -> Bits:
    """Hash 32-bit values, in an int64 tensor or as an int: every bit depends on every bit of the value."""
    for _ in range(2):
        values = (((values >> 16) ^ values) * _FACTOR) & _MASK
    return (values >> 16) ^ values


def keys(seed: int, epoch: int, rows: Tensor) -> Tensor:
    """[B] int64, the key of each example (its row of the data set) in one epoch."""
    start = mixed(mixed(seed & _MASK) ^ (epoch & _MASK))
    return mixed(mixed(rows & _MASK) ^ start)


def uniform(keys: Tensor, count: int, stream: int) -> Tensor:
    """[B, count] float32 in (0, 1), the numbers of one stream of each key."""
    places = mixed(((torch.arange(count, device=keys.device) + 1) ^ (stream * _STREAM)) & _MASK)
    bits = mixed(keys[:, None] ^ places) >> 9  # 23 bits plus a half are exact in float32, so that none becomes 1
    return (bits.to(torch.float32) + 0.5) / (1 << 23)


class KeyedDropout(nn.Dropout):
    """Dropout whose mask is a function of each example's key if ``keys`` [B] int64 of the next batch are given, else
    PyTorch's; ``stream`` is another number for every dropout of a network.
    """

    def __init__(self, p: float, stream: int) -> None:
        super().__init__(p)
        self.stream = stream
        self.keys: Tensor | None = None

    def forward(self, values: Tensor) -> Tensor:
        if self.keys is None or not self.training or self.p == 0:
            return super().forward(values)
        kept = uniform(self.keys, values.shape[1], self.stream) >= self.p
        return values * kept.to(values.dtype) / (1 - self.p)


def give_keys(network: nn.Module, keys: Tensor | None) -> None:
    """Set the keys of the next batch in every keyed dropout of a network."""
    for module in network.modules():
        if isinstance(module, KeyedDropout):
            module.keys = keys
