"""An AlexNet run: its checks and its launch on Ray Train or in this process."""

import re
from dataclasses import dataclass, field

import torch

from advlab.command import require_at_least
from advlab.data import ImageFolder
from advlab.engine.launcher import launch
from advlab.engine.progress import OnProgress, following
from advlab.engine.session import host_count
from advlab.errors import UserError
from advlab.models import alexnet
from advlab.models.study_models import trained_by
from advlab.store import Study
from advlab.studies.alexnet import show as presentation
from advlab.studies.alexnet.work import AlexNetConfig, Layout, curve, work
from advlab.studies.experiment import TrainExperiment
from advlab.training import image_classifier


@dataclass(frozen=True, kw_only=True, slots=True)
class AlexNet(TrainExperiment):
    """Train AlexNet (Krizhevsky et al. 2012) by data-parallel workers on Ray Train, for use in other studies."""

    kind = "alexnet"

    settings: AlexNetConfig = field(default_factory=AlexNetConfig)
    layout: Layout = field(default_factory=Layout)

    def prepare(self) -> None:
        config, layout, least = self.settings, self.layout, self.layout.fewest
        require_at_least(config, epochs=1, batch_size=1, held_out=0, size=alexnet.SMALLEST, seed=0)
        require_at_least(layout, workers=1, min_workers=1, accumulate=1, checkpoint_every=0, threads=1)
        if not re.fullmatch(r"[\w.-]+", config.name):
            raise UserError(f"--name {config.name!r} is not a valid name; use letters, digits, dots and hyphens.")
        if not 0 <= config.dropout < 1:
            raise UserError(f"--dropout {config.dropout:g} is impossible; choose at least 0 and less than 1.")
        if least > layout.workers:
            raise UserError(f"--min-workers {least} is more than --workers {layout.workers}; choose at most that.")
        if (parts := layout.workers * layout.accumulate) > config.batch_size:
            problem = f"--batch-size {config.batch_size} cannot be split into {parts} parts"
            raise UserError(f"{problem}; choose at least that many.")
        if layout.alone and layout.workers > 1:
            raise UserError(f"--alone is a single process; leave out --workers {layout.workers} or --alone.")
        with torch.device("meta"):
            alexnet.AlexNet(variant=config.variant, size=config.pixels(), width=config.width)
        _require_images(config)

    def run(self, plan: None, study: Study, workers: None, on_progress: OnProgress) -> None:  # noqa: ARG002
        if study.manifest["finished"] is not None:
            return
        layout = self.layout
        with following(study.store, "training", lambda: curve(study.store), on_progress):
            size = layout.workers if layout.fewest == layout.workers else (layout.fewest, layout.workers)
            launch(study, work, AlexNetConfig(**study.config), layout, size)
        name = study.config["name"]
        trained = trained_by(study, name)
        study.record_model(name, trained.fingerprint, recipe=trained.recipe.to_json(), report=trained.report)
        study.manifest["result"] = trained.report
        study.finish(1 if layout.alone else host_count())

    show = staticmethod(presentation.show)


def _require_images(config: AlexNetConfig) -> None:
    dataset = config.images("train")
    rows, _ = image_classifier.share(len(dataset), config.held_out, config.examples)
    if config.batch_size > len(rows):
        raise UserError(f"--batch-size {config.batch_size} is more than the {len(rows)} training images; choose less.")
    channels, side, _ = dataset.subset(slice(1)).images.shape[1:]
    if channels != 3:
        raise UserError(f"--data {config.data} has images of {channels} channel; choose cifar10 or colour photos.")
    if side < config.pixels():
        raise UserError(f"--size {config.size} is more than the {side} pixels of {config.data}; choose at most that.")
    test = config.images("test")
    if isinstance(dataset, ImageFolder) and isinstance(test, ImageFolder) and set(test.files) & set(dataset.files):
        raise UserError(f"--data {config.data} has no separate test images; put them into a folder test beside train.")
    if untrained := set(test.labels.tolist()) - set(dataset.labels.tolist()):
        name = test.class_names[min(untrained)]
        raise UserError(f"--data {config.data} has test images but no training images of class {name!r}; add some.")
