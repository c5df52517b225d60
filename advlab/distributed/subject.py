"""The one model that a study of its layers or its units is about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import ray
from torch import nn

from advlab import models
from advlab.errors import UserError
from advlab.models import Checkpoint, alexnet, checkpoint, efficientnet, external
from advlab.results import Study
from advlab.results.addresses import address

DEFAULT_SIZE = 224


@dataclass(frozen=True, slots=True)
class Subject:
    """A model, what it is called, and what tells it from others.

    Attributes:
        name: as given.
        model: in evaluation mode, on the CPU.
        fingerprint: of its weights and its code.
        own_data: the data set it was trained on, where that is one of ours.
        input_size: height and width of images it takes, as far as its name tells.
    """

    name: str
    model: nn.Module
    fingerprint: str
    own_data: str
    input_size: int

    @classmethod
    def load(cls, name: str, train_data: str, seed: int) -> Subject:
        """A zoo name (trained on ``train_data`` with ``seed`` on first use), an external model, or a checkpoint's path.

        Raises:
            UserError: an unknown model, or a file that is no checkpoint.
        """
        if external.is_external(name):
            model = external.load(name)
            for module in external.loaded_files:  # the file may be missing where actors run
                ray.cloudpickle.register_pickle_by_value(module)
            weights = checkpoint.weights_fingerprint(model.state_dict())
            return cls(name, model, address(weights, external.identity(name)), "", _size(name))
        if name.endswith(".safetensors"):
            try:
                found = Checkpoint.from_bytes(Path(name).expanduser().read_bytes())
            except (OSError, ValueError) as error:
                raise UserError(f"model {name!r} is no checkpoint of this program ({error}).") from error
            return cls(name, found.network(), found.fingerprint, found.recipe.data, DEFAULT_SIZE)
        model = models.load(name, data=train_data, seed=seed)
        return cls(name, model, checkpoint.weights_fingerprint(model.state_dict()), train_data, DEFAULT_SIZE)

    def record_in(self, study: Study) -> None:
        """Write the fingerprint into ``study.json``.

        Raises:
            UserError: the study began with other weights.
        """
        study.record_model(self.name, self.fingerprint)
        study.save_manifest()


def _size(name: str) -> int:
    """What is known of the models that come with this package."""
    if name.startswith(f"python:{alexnet.__name__}:"):
        return alexnet.SIZE
    if name.startswith(f"python:{efficientnet.__name__}:"):
        return efficientnet.SIZES.get(name.rpartition(":")[2], DEFAULT_SIZE)
    return DEFAULT_SIZE
