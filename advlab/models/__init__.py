"""Classifiers: images [B, C, H, W] in [0, 1] → logits [B, k]."""

from __future__ import annotations

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
    """A trained classifier in eval mode, its parameters frozen.

    A zoo model is trained on first use and comes from the cache afterwards.

    Args:
        name: a zoo name, one with a split of its own (``fc100-100-10@p1``), ``torchvision:NAME[@WEIGHTS]``,
            ``timm:NAME``, ``file:PATH.py:FACTORY``, ``study:DIR?name=NAME`` or the path of a checkpoint
            (``.safetensors``).
        data: name of the data set to train on, or the ``Dataset`` itself as ``data.load`` gave it.
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
        logger.info("training %s on %s (%s), once", name, dataset.name, dataset.split)
        test = load_data(dataset.name, "test")
        found = checkpoint.train(recipe, dataset, test, device=torch.device(device))
        checkpoint.save(found)
    return found.network().to(device)


def build(name: str, dataset: Dataset) -> nn.Module:
    """The network that a name stands for, to be trained on ``dataset`` by something else than its recipe.

    Args:
        name: as for ``load``; models from elsewhere come with the weights that they have.
        dataset: whose images it reads and whose classes it tells apart.

    Raises:
        UserError: an unknown model, or one of another number of classes.
    """
    if (given := _from_elsewhere(name)) is not None:
        return given.train().requires_grad_(True)
    return zoo.recipe(name, dataset).build()


def _from_elsewhere(name: str) -> nn.Module | None:
    """The model of a name that is not the zoo's, in eval mode and frozen."""
    if study_models.is_stored(name):
        return study_models.one(name).network()
    return external.load(name) if external.is_external(name) else None


def _require_whole(dataset: Dataset) -> Dataset:
    """The data set itself, if it is a split as ``data.load`` gives it: a recipe knows data by that name alone."""
    split = load_data(dataset.name, dataset.split)
    if not torch.equal(dataset.index, split.index):
        raise UserError(
            f"the {len(dataset)} images given are not the {len(split)} images of {dataset.name} {dataset.split}, by "
            "which name zoo models are kept; pass a whole split, or train by a recipe of your own."
        )
    return dataset
