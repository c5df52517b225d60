"""A recipe says all there is to know about how a model comes to be."""

from __future__ import annotations

import hashlib
import json
import pkgutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Architecture, training procedure, data and seed of one model; plain values only, so that it is JSON.

    Network and trainer are named as ``package.module:object``. That keeps this layer ignorant of the training code
    above it, and lets a recipe name code of one's own.
    """

    name: str
    """What the model is called in tables; no part of its identity."""

    network: str
    """A callable that builds the untrained ``nn.Module``."""

    network_arguments: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the network."""

    trainer: str
    """A callable ``(network, dataset, *, seed, device, progress, **trainer_arguments) -> dict`` that fits in place."""

    trainer_arguments: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the trainer."""

    data: str = "mnist"
    """Data set the model is trained on."""

    split: str = "train"
    """Split it is trained on."""

    seed: int = 0
    """Seed of the initial weights and of everything random in training."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything but the name: equal recipes give equal models."""
        values = asdict(self)
        values.pop("name")
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def build(self) -> nn.Module:
        """The untrained network."""
        module = pkgutil.resolve_name(self.network)(**self.network_arguments)
        assert isinstance(module, nn.Module)
        return module

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a JSON file."""
        return asdict(self)
