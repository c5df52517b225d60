"""The resolver of model names: zoo names, ``study:DIR``, paths of checkpoints (``.safetensors``), and names with a
scheme of `advlab.models.external`.
"""

from dataclasses import dataclass

from torch import nn

from advlab import models
from advlab.data import DATASETS
from advlab.models import alexnet, checkpoint, efficientnet, external, study_models
from advlab.store import Study, address

DEFAULT_SIZE = 224


@dataclass(frozen=True, slots=True)
class Resolved:
    """A model (in evaluation mode, on the CPU) with the ``fingerprint`` of its weights and code, the data set it was
    trained on, if that is one of advlab's, and the height and width of its images.
    """

    name: str
    model: nn.Module
    fingerprint: str
    own_data: str
    input_size: int

    def record_in(self, study: Study) -> None:
        """Write the fingerprint into ``study.json``; raises a UserError if the study began with other weights."""
        study.record_model(self.name, self.fingerprint)
        study.save_manifest()


def resolve(name: str, train_data: str, seed: int) -> Resolved:
    """The one model of a name; a zoo model is trained on ``train_data`` with ``seed`` on first use. Raises a UserError
    for an unknown model, one that cannot be read, or a study of several.
    """
    if study_models.is_stored(name):
        found = study_models.one(name)
        # it is not trusted: no folder that it names is opened
        own_data = found.recipe.data if found.recipe.data in DATASETS else ""
        return Resolved(name, found.network(), found.fingerprint, own_data, DEFAULT_SIZE)
    model = models.load(name, data=train_data, seed=seed)
    weights = checkpoint.weights_fingerprint(model.state_dict())
    if external.is_external(name):
        return Resolved(name, model, address(weights, external.identity(name)), "", input_size(name))
    return Resolved(name, model, weights, train_data, DEFAULT_SIZE)


def input_size(name: str) -> int:
    """Height and width of a model's images, as far as its name determines them."""
    if name.startswith(f"python:{alexnet.__name__}:"):
        return alexnet.SIZE
    if name.startswith(f"python:{efficientnet.__name__}:"):
        return efficientnet.SIZES.get(name.rpartition(":")[2], DEFAULT_SIZE)
    return DEFAULT_SIZE
