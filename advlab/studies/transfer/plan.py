"""The plan of a transfer study: its settings, validated."""

import logging
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
from torch import nn

from advlab import data
from advlab.attacks import references, registry
from advlab.attacks.model import PROBED, Classifier
from advlab.command import also, listed, require_at_least
from advlab.data import Dataset, folder, splits
from advlab.errors import UserError
from advlab.models import Recipe, external, study_models, zoo
from advlab.models.study_models import StudyModel
from advlab.studies.transfer.results import TransferStudy
from advlab.transfer import controls
from advlab.transfer.generate import require_target

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class TransferConfig:
    """Settings that determine the rows of a transfer study."""

    dataset: Annotated[str, also("--data")] = "mnist"
    """Data set: mnist, fashion_mnist, cifar10 or folder:PATH[?size=N]."""
    split: str = "train"
    """Split whose images are attacked: train, test, fit, validation, p1 or p2."""
    train_split: str = "train"
    """Split on which zoo models are trained."""
    models: str = "paper"
    """Comma-separated: zoo names (paper = the six of Table 1; NAME@SPLIT to train on another split), study:DIR (the
    models of another study or sweep), PATH.safetensors, torchvision:NAME, timm:NAME, file:PATH.py:FACTORY."""
    examples: Annotated[int, also("--images")] = 1000
    """Number of images attacked per model, from the first of the split."""
    attack: str = "lbfgs"
    """lbfgs (the paper's), minimum-norm[:EVALUATIONS] (ours, with its budget per image) or foolbox:CLASS."""
    target: str = "random"
    """random, nearest, runner-up, least-likely, all, or a class."""
    controls: str = "gaussian-0.1,gaussian-0.3,shuffled"
    """Comma-separated sources besides the models: gaussian-SIGMA[-clipped]; and shuffled, sphere, noise, borrowed,
    amplified-RMS[-clipped|-boxed|-literal], made from the perturbations of every model, or of one: shuffled-MODEL."""
    shard_size: int = 250
    """Images per shard, the unit of work."""
    seed: int = 0
    """Seed of training, of random targets and of noise."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A transfer study to be computed, with all settings validated.

    Attributes:
        settings: as in ``study.json``; part of the study's identity.
        attack_settings: the attack's arguments and the version of its code; also part of the identity.
        trained_on: by split, the images on which zoo models are trained.
        external, trained: the models from elsewhere, and those from other studies.
        reuse: folder of another study, whose shards are copied if their content addresses match.
    """

    config: TransferConfig
    settings: dict[str, Any]
    attack_settings: dict[str, Any]
    attacked: Dataset
    references: Dataset | None
    trained_on: dict[str, Dataset]
    recipes: dict[str, Recipe]
    models: list[str]
    external: dict[str, nn.Module]
    trained: dict[str, StudyModel]
    reuse: str | None


def prepare(config: TransferConfig, reuse: str | None = None, trust_code: str = "") -> Plan:
    """Check the settings and load the data and the external models; nothing is written.

    ``trust_code`` names the code in other studies that may be run. Raises a UserError for an unknown data set, split,
    model, attack, target or control; an impossible number; no study in ``reuse`` or at a ``study:``.
    """
    names, trained = study_models.expand(zoo.expand(config.models), listed(trust_code))
    noise = listed(config.controls)
    controls.validate(noise, names)
    full = data.load(config.dataset, config.split)
    if not 1 <= config.examples <= len(full):
        raise UserError(
            f"--examples {config.examples} is impossible: {config.dataset} {config.split} has {len(full)} images; "
            f"choose 1 to {len(full)}."
        )
    require_at_least(config, shard_size=1, seed=0)
    require_target(config.target, full.num_classes)
    registry.resolve(config.attack, config.target)
    trained_on, recipes = {full.split: full}, {}
    for name in names:
        if name not in trained and not external.is_external(name):
            split = splits.full_name(zoo.training_split(name, config.train_split))
            if split not in trained_on:
                trained_on[split] = data.load(config.dataset, split)
            recipes[name] = zoo.recipe(name, trained_on[split], seed=config.seed)
    # a model from a study is identified by its weights, not by its name there
    elsewhere = {name: external.load(name) for name in names if name not in trained and external.is_external(name)}
    stored = {name: model.checkpoint.network() for name, model in trained.items()}
    for name, network in (elsewhere | stored).items():
        _require_classifier(name, network, full)
    known = _references(config, trained_on) if registry.takes_references(config.attack) else None
    return Plan(
        config=config,
        settings=asdict(config) | {"models": names, "controls": noise},
        attack_settings=registry.settings(config.attack, None if known is None else known.fingerprint),
        attacked=full.subset(slice(config.examples)),
        references=known,
        trained_on=trained_on,
        recipes=recipes,
        models=names,
        external=elsewhere,
        trained=trained,
        reuse=None if reuse is None else TransferStudy.open(reuse).store.uri,
    )


def _require_classifier(name: str, network: nn.Module, dataset: Dataset) -> None:
    """Raise a UserError for a model that fails on the first images, returns NaN, or has too few classes."""
    images = dataset.subset(slice(PROBED)).images
    try:
        classifier = Classifier(network, images, differentiable=False)
        with torch.no_grad():
            logits = classifier(images)
    except UserError as error:
        raise UserError(f"model {name!r} cannot classify {dataset.name}: {error}") from error
    if bool(logits.isnan().any()):
        raise UserError(f"model {name!r} returns NaN for the first images of {dataset.name}; fix it or leave it out.")
    if classifier.num_classes < dataset.num_classes:
        raise UserError(
            f"model {name!r} has {classifier.num_classes} classes, and {dataset.name} has {dataset.num_classes}; "
            "choose a model with as many, or another data set."
        )
    if classifier.num_classes > dataset.num_classes:
        warning = "model %r has %s classes, and %s has %s: its class k is assumed to be the data set's class k"
        logger.warning(warning, name, f"{classifier.num_classes:,}", dataset.name, dataset.num_classes)


def _references(config: TransferConfig, loaded: dict[str, Dataset]) -> Dataset:
    """The first training images, or those of the attacked split of a folder without a training split."""
    try:
        return references.among(loaded["train"] if "train" in loaded else data.load(config.dataset, "train"))
    except UserError:
        if not folder.is_folder(config.dataset):
            raise
        return references.among(loaded[splits.full_name(config.split)])
