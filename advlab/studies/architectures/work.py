"""One trial of a sweep over architectures on a worker of Tune: train, measure, store, report."""

import time
from dataclasses import replace
from typing import Any

import torch
from ray import tune
from torch import nn

from advlab.attacks import minimum_norm, references
from advlab.data import Dataset
from advlab.engine.shared_dataset import SharedDataset
from advlab.errors import UserError
from advlab.models import Checkpoint, Recipe, checkpoint, error_rate
from advlab.models.study_models import stored
from advlab.store import MANIFEST, Store, provenance, weights_file
from advlab.studies.architectures import trials
from advlab.studies.architectures.plan import ArchitecturesConfig
from advlab.studies.architectures.space import Point

PERCENT = "percent"
"""Metric of the share of the budget spent, by which trials with different units are compared."""
REPORT_EVERY = 5  # per cent: each report costs an evaluation on the validation images and a round trip to the driver


def run_trial(
    config: dict[str, Any],
    *,
    out: str,
    code: str,
    settings: ArchitecturesConfig,
    threads: int,
    use_gpu: bool,
    images: dict[str, SharedDataset],
) -> None:
    """Run a trial, or use its result if the study has its model already; the last report is its row.

    ``config`` is ``{"point": …}``, the fields of a ``Point``; ``images`` has the splits ``fit``, ``validation`` and
    ``test``. Raises a UserError if this machine does not see the study's folder or has another version of the code.
    """
    store = Store(out)
    if provenance.code() != code:
        raise UserError("a machine has another version of advlab; install the same one on all machines.")
    if not store.exists(MANIFEST):
        raise UserError(f"a machine does not see {store.path(MANIFEST)!r}; choose an --out that all machines share.")
    torch.set_num_threads(threads)
    fit = images["fit"].dataset()
    recipe = Point(**config["point"]).recipe(fit, epochs=settings.epochs, max_iterations=settings.max_iterations)
    model = stored(store, recipe.name)
    if model is None or model.recipe.fingerprint != recipe.fingerprint:
        validation, test = (images[split].dataset() for split in ("validation", "test"))
        device = torch.device("cuda" if use_gpu else "cpu")
        model = _make(recipe, fit, validation, test, settings.examples, device)
        store.write_bytes(weights_file(recipe.name), model.to_bytes())
    tune.report(trials.row(model))


def _make(
    recipe: Recipe, fit: Dataset, validation: Dataset, test: Dataset, examples: int, device: torch.device
) -> Checkpoint:
    """Train a model, and report its progress; measure its error and its minimum distortion on validation images."""
    started = time.perf_counter()
    network, steps = recipe.build(), _steps(recipe, len(fit))
    reported = 0

    def progress(step: int, _values: dict[str, float]) -> None:
        nonlocal reported
        percent = 100 * step // steps
        if reported + REPORT_EVERY <= percent < 100:  # the last report is the trial's row
            reported = percent
            error = error_rate(network, validation.images, validation.labels)
            tune.report({PERCENT: percent, "validation_error": error})

    model = checkpoint.train(recipe, fit, test, device=device, progress=progress, network=network)
    report = {
        **model.report,
        "training_seconds": model.report["seconds"],
        "validation_error": error_rate(network, validation.images, validation.labels),
        **_distortion(network, validation.subset(slice(examples)), references.among(fit), device),
    }
    return replace(model, report={**report, "seconds": time.perf_counter() - started})


def _steps(recipe: Recipe, images: int) -> int:
    """The number of steps of a trainer: minibatches or iterations."""
    arguments = recipe.trainer_arguments
    if "epochs" in arguments:
        return int(arguments["epochs"]) * -(-images // int(arguments["batch_size"]))
    return int(arguments["max_iterations"])


def _distortion(network: nn.Module, attacked: Dataset, known: Dataset, device: torch.device) -> dict[str, Any]:
    """Minimum distortion of the images; misclassified clean images count as 0, as in the paper's Table 1."""
    network.requires_grad_(False)
    images, labels, known_images = (tensor.to(device) for tensor in (attacked.images, attacked.labels, known.images))
    adversarial = minimum_norm(network, images, labels, target="nearest", references=known_images)
    found: dict[str, Any] = {
        "attacked": len(attacked),
        "attack_success_rate": float(adversarial.success.double().mean()),
    }
    for name, values in (("l2", adversarial.l2), ("rms", adversarial.rms)):
        crossed = values[adversarial.success]
        for statistic, of in (("mean", torch.mean), ("median", torch.median)):
            found[f"{statistic}_{name}"] = float(of(crossed)) if len(crossed) else None
    return found
