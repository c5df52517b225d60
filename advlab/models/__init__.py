"""Classifiers: images [B, C, H, W] in [0, 1] → logits [B, k]."""

import logging

import torch
from torch import nn

from advlab.data import Dataset
from advlab.data import load as load_data
from advlab.errors import UserError
from advlab.models import checkpoint, external, study_models, zoo
from advlab.models.checkpoint import Checkpoint
from advlab.models.evaluation import error_rate
from advlab.models.recipe import Recipe
from advlab.models.registry import register
from advlab.models.zoo import PAPER

__all__ = ["PAPER", "Checkpoint", "Recipe", "build", "error_rate", "load", "register"]

logger = logging.getLogger(__name__)


def load(
    name: str, data: str | Dataset = "mnist", *, seed: int = 0, split: str = "train", device: torch.device | str = "cpu"
) -> nn.Module:
    """A trained classifier in eval mode, frozen; a zoo model is trained on first use and cached.

    Args:
        name: a zoo name, which may name a split (``fc100-100-10@p1``), ``torchvision:NAME[@WEIGHTS]``, ``timm:NAME``,
            ``file:PATH.py:FACTORY``, ``study:DIR?name=NAME`` or the path of a checkpoint (``.safetensors``).
        data: name of the data set to train on, or a ``Dataset`` from ``data.load``.
        seed: of the initial weights and of training.
        split: the split to train on, when ``data`` is a name.
        device: where to train and to leave the model.

    Raises:
        UserError: an unknown model or data set, or a part of a split.
    """
    if (given := _from_elsewhere(name)) is not None:
        return given.to(device)
    split = zoo.training_split(name, split)
    dataset = load_data(data, split) if isinstance(data, str) else _require_whole(data)
    recipe = zoo.recipe(name, dataset, seed=seed)
    found = checkpoint.find(recipe)
    if found is None:
        logger.info("training %s on %s (%s), once; it is cached", name, dataset.name, dataset.split)
        test = load_data(dataset.name, "test")
        found = checkpoint.train(recipe, dataset, test, device=torch.device(device))
        checkpoint.save(found)
    return found.network().to(device)


def build(name: str, dataset: Dataset) -> nn.Module:
    """The network of a name, to be trained on ``dataset`` by something other than its recipe; external models keep
    their weights. Raises a UserError for an unknown model, or one with another number of classes.
    """
    if (given := _from_elsewhere(name)) is not None:
        return given.train().requires_grad_(True)
    return zoo.recipe(name, dataset).build()


def _from_elsewhere(name: str) -> nn.Module | None:
    """The model of a name outside the zoo, in eval mode and frozen; None for zoo names."""
    if study_models.is_stored(name):
        return study_models.one(name).network()
    return external.load(name) if external.is_external(name) else None


def _require_whole(dataset: Dataset) -> Dataset:
    """Return the data set if it is a whole split, as recipes identify data by the name of the split only."""
    split = load_data(dataset.name, dataset.split)
    if not torch.equal(dataset.index, split.index):
        raise UserError(
            f"the {len(dataset)} images given are not the {len(split)} images of {dataset.name} {dataset.split}, by "
            "which zoo models are cached; pass a whole split, or train with your own recipe."
        )
    return dataset
