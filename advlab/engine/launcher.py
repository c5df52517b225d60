"""Launchers of the workers of a training run: Ray Train, or this process without Ray."""

import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
from pyarrow.fs import FileSelector, FileType
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from advlab.errors import UserError
from advlab.store import Store, Study

logger = logging.getLogger(__name__)
FAILURES = 3
"""Failures of workers after which training still continues."""
_NOTES = "checkpoint_manager_snapshot.json"
ALONE = "alone"
"""Folder of the checkpoints of a run without Ray."""
Work = Callable[[Any, Any, Store, "Launcher"], None]
"""What every worker does, given the study's config, the layout, the study's folder, and where it runs."""


class OnRay:
    """A worker of Ray Train."""

    def __init__(self) -> None:
        self.rank = ray.train.get_context().get_world_rank()
        self.device = get_device()

    def newest(self) -> AbstractContextManager[str | None]:
        """The folder of the checkpoint to continue from, if there is one."""
        checkpoint = ray.train.get_checkpoint()
        return nullcontext() if checkpoint is None else checkpoint.as_directory()

    def report(self, metrics: dict[str, Any], folder: str | None) -> None:
        """Report progress, and store a folder with this worker's part of a checkpoint if there is one."""
        ray.train.report(metrics, checkpoint=None if folder is None else Checkpoint.from_directory(folder))


class Alone:
    """This process without Ray. A checkpoint is complete once it has its final name."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.rank, self.device, self.folder = 0, device, folder

    def newest(self) -> AbstractContextManager[str | None]:
        found = sorted(self.folder.glob("step-*"))
        return nullcontext(str(found[-1]) if found else None)

    def report(self, metrics: dict[str, Any], folder: str | None) -> None:
        if folder is None:
            return
        earlier = list(self.folder.glob("step-*"))
        final = self.folder / f"step-{metrics['step']:08d}"
        partial = self.folder / f".{final.name}"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(folder, partial)
        partial.rename(final)
        for path in earlier:
            shutil.rmtree(path)


Launcher = OnRay | Alone
"""The environment of one worker; ``torch.distributed`` is initialised."""


@contextmanager
def one_process(backend: str) -> Iterator[None]:
    """A process group of this one process, while the block runs."""
    with tempfile.TemporaryDirectory(prefix="advlab-") as folder:
        dist.init_process_group(backend, init_method=f"file://{folder}/meeting", rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()


@dataclass(frozen=True, kw_only=True, slots=True)
class Devices:
    """The device of every worker of a training run."""

    gpus: bool = False
    """One GPU per worker with NCCL; otherwise one CPU per worker with gloo."""
    accelerator: str | None = None
    """Kind of GPU, as Ray names it, such as A100; any by default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainLayout(Devices):
    """Workers of a training run and their resources; they change results by rounding only."""

    alone: bool = False
    """Run in this process, without Ray."""
    checkpoint_every: int = 200
    """Steps between checkpoints; with 0 there are none, and a failed worker loses all progress."""
    threads: int = 1
    """Threads per worker on CPUs."""

    @property
    def fewest(self) -> int:
        return 1


def launch(study: Study, work: Work, config: Any, layout: TrainLayout, workers: int | tuple[int, int]) -> None:
    """Run ``work(config, layout, store, launcher)`` in this process, or in workers of Ray Train by `fit`."""
    if layout.alone:
        study.store.require_own(ALONE)
        folder = Path(study.store.path(ALONE))
        folder.mkdir(exist_ok=True)
        device = torch.device("cuda" if layout.gpus else "cpu")
        with one_process("nccl" if layout.gpus else "gloo"):
            work(config, layout, study.store, Alone(folder, device))
    else:
        given = {"work": work, "config": config, "layout": layout, "out": study.store.uri}
        fit(study, _work, given, layout, workers, restart=bool(layout.checkpoint_every))


def _work(given: dict[str, Any]) -> None:
    given["work"](given["config"], given["layout"], Store(given["out"]), OnRay())


def require_resources(workers: int, devices: Devices, *, elastic: bool) -> None:
    """Raise a UserError if the cluster has no room for the workers and cannot grow; Ray must be connected."""
    total, kind, accelerator = ray.cluster_resources(), "GPU" if devices.gpus else "CPU", devices.accelerator
    has = total.get(kind, 0)
    if has >= workers and (accelerator is None or any(name.endswith(f":{accelerator}") for name in total)):
        return
    wanted = f"{workers} {kind}{'s' * (workers > 1)}" + (f" of kind {accelerator}" if accelerator else "")
    if not elastic:
        raise UserError(
            f"{workers} worker{'s' * (workers > 1)} need {wanted}, and this machine has {has:g} {kind}s"
            f"{' of other kinds' if has >= workers else ''}; ask for less, or name a cluster with --address."
        )
    waits = "waiting for %s: the cluster has %g %ss now, and training starts when machines join"
    logger.warning(waits, wanted, has, kind)


def fit(
    study: Study,
    work: Callable[[dict[str, Any]], None],
    given: dict[str, Any],
    devices: Devices,
    workers: int | tuple[int, int],
    *,
    restart: bool,
    folder: str = "train",
) -> None:
    """Run ``work(given)`` in workers of Ray Train, from the study's newest checkpoint; Ray must be connected.

    Args:
        workers: their number; or the smallest and the largest, as the cluster has room.
        restart: whether to continue after a worker's failure, up to `FAILURES` times.
        folder: of the checkpoints, within the study.

    Raises:
        UserError: workers kept failing; finished work is kept. Or Ray Train's notes name checkpoints elsewhere.
    """
    study.store.require_own(folder)
    _require_own_checkpoints(study.store, folder)
    spread: Any = workers  # Ray's types only know a single number
    trainer = TorchTrainer(
        work,
        train_loop_config=given,
        torch_config=TorchConfig(backend="nccl" if devices.gpus else "gloo"),
        scaling_config=ScalingConfig(num_workers=spread, use_gpu=devices.gpus, accelerator_type=devices.accelerator),
        run_config=RunConfig(
            name=folder,
            storage_path=study.store.uri,
            failure_config=FailureConfig(max_failures=FAILURES if restart else 0),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        reason = str(error).strip().splitlines()
        raise UserError(
            f"training ended early ({reason[-1] if reason else 'no reason given'}); finished work is kept in "
            f"{study.store.uri!r}: fix the cause and run the same command again."
        ) from error
    _delete_orphans(result)


def _require_own_checkpoints(store: Store, folder: str) -> None:
    """Raise a UserError if Ray Train's notes name folders other than its own: Ray Train reads and deletes those."""
    notes = f"{folder}/{_NOTES}"
    if not store.exists(notes):
        return
    try:
        named = list(_checkpoint_names(store.read_json(notes)))
    except (ValueError, RecursionError):
        named = [None]
    for name in named:
        if not (isinstance(name, str) and re.fullmatch(r"checkpoint_[\w.:+-]*", name)):
            raise UserError(
                f"{store.path(notes)!r} is not as Ray Train left it (it names {str(name)[:80]!r} as a checkpoint); "
                f"remove {store.path(folder)!r} to train from the start."
            )


def _checkpoint_names(notes: Any, key: str = "") -> Iterator[Any]:
    """All values under keys that name checkpoints."""
    if isinstance(notes, dict):
        for inner, value in notes.items():
            yield from _checkpoint_names(value, inner)
    elif isinstance(notes, list):
        for value in notes:
            yield from _checkpoint_names(value, key)
    elif "checkpoint_dir_name" in key:
        yield notes


def _delete_orphans(result: ray.train.Result) -> None:
    """Remove checkpoints that workers wrote just before they died, so that Ray Train does not know them."""
    kept = {checkpoint.path: checkpoint.filesystem for checkpoint, _ in result.best_checkpoints or ()}
    if not kept:
        return
    path, filesystem = next(iter(kept.items()))
    for found in filesystem.get_file_info(FileSelector(str(PurePosixPath(path).parent))):
        if found.base_name.startswith("checkpoint_") and found.type == FileType.Directory and found.path not in kept:
            filesystem.delete_dir(found.path)
