"""The recipe of a model: architecture, training procedure, data and seed, as JSON."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, Self
from urllib.parse import quote

from torch import Tensor, nn

from advlab.errors import UserError
from advlab.models import registry, untrusted
from advlab.models.external import SCHEMES

_LONGEST_NAME = 240
"""Longest model name as a file name: file systems allow 255 characters with the suffix."""


class UnknownRecipe(ValueError):
    """A recipe that another version of advlab wrote: intact, but unknown here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Architecture, training procedure, data and seed of one model, as plain JSON values.

    Network and trainer are named as ``package.module:object`` or by their registered names (`advlab.models.registry`).
    So this layer does not depend on the training code above it, and a file cannot choose what code is run.
    """

    name: str
    """The model's name in tables; not part of its identity."""
    network: str
    """A callable that builds the untrained ``nn.Module`` from ``network_arguments``."""
    network_arguments: Mapping[str, Any] = field(default_factory=dict)
    trainer: str
    """A callable ``(network, dataset, *, seed, device, progress, **trainer_arguments) -> dict`` that fits in place."""
    trainer_arguments: Mapping[str, Any] = field(default_factory=dict)
    data: str = "mnist"
    split: str = "train"
    """Split of the data set that it is trained on."""
    seed: int = 0
    """Seed of the initial weights and of all randomness in training."""

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """The inverse of ``to_json``, for values from an untrusted file. Raises UnknownRecipe for fields unknown to
        this version, a ValueError if fields are missing, mistyped or too large.
        """
        if not isinstance(values, dict):
            raise ValueError("its recipe is not a JSON object")
        known = {one.name: one for one in fields(cls)}
        if unknown := sorted(values.keys() - known.keys()):
            raise UnknownRecipe(f"its recipe has {unknown[0][:80]!r}, which this version of advlab does not know")
        for name, one in known.items():
            optional = one.default is not MISSING or one.default_factory is not MISSING
            wanted = one.type if one.type in (int, str) else dict
            if (name in values or not optional) and type(values.get(name)) is not wanted:
                raise ValueError(f"its recipe has no {name}, or one of another type")
        name = values["name"]
        if not name or not name.isprintable() or len(quote(name, safe="")) > _LONGEST_NAME:
            raise ValueError("its recipe has a name that is empty, too long or not printable")
        if name.partition(":")[0] in (*SCHEMES, "study", "untrusted") and ":" in name:
            raise ValueError(f"its recipe has the name {name!r}, which is reserved for external models")
        return cls(**values)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all fields except the name: equal recipes give equal models."""
        values = asdict(self)
        values.pop("name")
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def build(self, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
        """The untrained network; ``weights`` is a state dict that it must fit, if recipe and weights come from a file.
        Raises a UserError if the network is unknown, or ``weights`` do not fit it.
        """
        if weights is not None:
            self.require_fits(weights)
        module = registry.find("network", self.network)(**self.network_arguments)
        assert isinstance(module, nn.Module)
        return module

    def require_fits(self, weights: Mapping[str, Tensor]) -> None:
        """Raise a UserError unless an untrusted recipe's network is known and has exactly these weights."""
        try:
            untrusted.require_fits(registry.find("network", self.network), self.network_arguments, weights)
        except (UserError, ValueError) as error:
            raise UserError(f"model {self.name!r} cannot be built: {str(error).rstrip('.')}.") from error

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a JSON file."""
        return asdict(self)
