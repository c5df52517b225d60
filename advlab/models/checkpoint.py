"""Trained weights with their recipe, cached under the recipe's hash."""

import hashlib
import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from advlab import data
from advlab.data import Dataset
from advlab.errors import one_line
from advlab.models import registry
from advlab.models.evaluation import error_rate
from advlab.models.recipe import Recipe, UnknownRecipe
from advlab.store.files import write_atomically

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A trained model: recipe, weights (the state dict, on the CPU), and the trainer's report, to which
    ``train_error``, ``test_error`` in [0, 1] and ``parameters`` are added.
    """

    recipe: Recipe
    weights: dict[str, Tensor]
    report: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the weights."""
        return weights_fingerprint(self.weights)

    def network(self) -> nn.Module:
        """The trained network, in eval mode, on the CPU; raises a UserError if it is unknown or does not fit."""
        module = self.recipe.build(self.weights)
        module.load_state_dict(self.weights)
        return module.eval().requires_grad_(False)

    def to_bytes(self) -> bytes:
        """A safetensors file whose metadata holds recipe and report."""
        metadata = {"recipe": json.dumps(self.recipe.to_json()), "report": json.dumps(self.report)}
        return save_safetensors(self.weights, metadata)

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Read what ``to_bytes`` wrote; no name in it is looked up or run. Raises UnknownRecipe (a ValueError) if
        another version wrote it, else a ValueError if it is not a whole checkpoint.
        """
        try:
            weights = load_safetensors(content)
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
            recipe, report = Recipe.from_json(json.loads(header["recipe"])), json.loads(header["report"])
            if not isinstance(report, dict):
                raise ValueError("its report is not a JSON object")
            return cls(recipe, weights, report)
        except UnknownRecipe:
            raise
        except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"not a complete advlab checkpoint: {error}") from error


def weights_fingerprint(weights: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values of a state dict."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def train(
    recipe: Recipe,
    dataset: Dataset,
    test: Dataset,
    *,
    device: torch.device,
    progress: Any = None,
    network: nn.Module | None = None,
) -> Checkpoint:
    """Train a model by its recipe, or the ``network`` that the recipe built; reproducible on one kind of machine."""
    network = recipe.build() if network is None else network
    trainer = registry.find("trainer", recipe.trainer)
    report = trainer(network, dataset, seed=recipe.seed, device=device, progress=progress, **recipe.trainer_arguments)
    report |= {
        "train_error": error_rate(network, dataset.images, dataset.labels),
        "test_error": error_rate(network, test.images, test.labels),
        "parameters": sum(p.numel() for p in network.parameters()),
    }
    weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    return Checkpoint(recipe, weights, report)


def find(recipe: Recipe) -> Checkpoint | None:
    """The cached checkpoint of a recipe, if there is one and it can be read."""
    path = _path(recipe)
    try:
        # the name of a recipe is not part of its address, so the entry may have been written under another name
        return replace(Checkpoint.from_bytes(path.read_bytes()), recipe=recipe)
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.warning("%s cannot be read (%s); training the model again", path, one_line(error))
    except ValueError:
        logger.warning("%s is damaged; training the model again", path)
    return None


def save(checkpoint: Checkpoint) -> None:
    """Cache a checkpoint, and its recipe and report also as JSON; warns if the cache cannot be written."""
    path = _path(checkpoint.recipe)
    described = {"recipe": checkpoint.recipe.to_json(), "report": checkpoint.report}
    try:
        write_atomically(path.with_suffix(".json"), json.dumps(described, indent=2).encode())
        write_atomically(path, checkpoint.to_bytes())
    except OSError as error:
        notice = "%s is not kept in the cache (%s); set ADVLAB_CACHE to a writable folder"
        logger.warning(notice, checkpoint.recipe.name, one_line(error))


def _path(recipe: Recipe) -> Path:
    return data.cache_dir() / "models" / f"{recipe.fingerprint}.safetensors"
