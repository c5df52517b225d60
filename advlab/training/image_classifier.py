"""Minibatch training of an image classifier, in one process or spread over several by DDP.

The images of a step, their crops and the dropped units depend only on seed, epoch and step. So one process and many
take the same steps, up to rounding, and a run can be stopped anywhere and resumed.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from advlab.data import Dataset, ImageFolder
from advlab.errors import UserError
from advlab.models import alexnet, counter_rng
from advlab.training.data_parallel import Ranks
from advlab.training.full_batch import Progress
from advlab.training.rica import batch_rows

Name = Literal["2012", "modern"]
Precision = Literal["float32", "bfloat16"]
Item = TypeVar("Item")

DECAYED_AT = (1 / 3, 2 / 3, 8 / 9)
"""Fractions of a run of recipe 2012 after which the rate is divided by ten: epochs 30, 60 and 80 of 90."""
WARM_UP = 0.05
"""Fraction of a run of recipe modern in which the rate rises to its peak."""
SMOOTHING = 0.1
"""Label smoothing of recipe modern (Szegedy et al. 2016)."""
LIGHTING = 0.1
"""Deviation of the colour shifts of recipe 2012, in units of the principal components' variances."""
STORED = 256 / alexnet.SIZE
"""Side of a photo before cropping, relative to the crop: Krizhevsky et al. crop 227 of 256 pixels."""
_CROP_STREAM, _LIGHT_STREAM = 11, 12
_AHEAD = 2
_EVALUATED_AT_ONCE = 250
_SAMPLE = {True: 2_000, False: 10_000}
"""Number of images whose colours are measured, by whether they must be decoded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The settings that, with network and images, determine the weights.

    Attributes:
        recipe: ``2012``: SGD with momentum, the rate divided by ten three times, crops, flips, shifts of colour along
            the principal components (Krizhevsky et al., section 4.1). ``modern``: AdamW, warm-up and half a cosine,
            label smoothing, crops, flips.
        epochs: passes over the images.
        batch_size: images per step, over all processes and parts.
        learning_rate: the peak.
        weight_decay: of weights; biases are not decayed.
        size: height and width of the crops, in pixels.
        precision: type in which products are computed; weights stay float32.
        seed: of initial weights, order, crops and dropout.
    """

    recipe: Name
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    size: int
    precision: Precision
    seed: int

    def steps_per_epoch(self, total: int) -> int:
        """Number of whole batches of ``total`` images; the remainder of an epoch is dropped."""
        return max(1, total // self.batch_size)


DEFAULTS: dict[Name, tuple[float, float]] = {"2012": (0.01, 5e-4), "modern": (1e-3, 0.05)}
"""Learning rate and weight decay of the recipes: those of Krizhevsky et al., and common ones for ``modern``."""


class Colours(NamedTuple):
    """Of a sample of images, in [0, 1]: ``mean`` and ``std`` per channel; ``axes`` [3, 3], the principal components of
    the pixels as columns, each times its variance."""

    mean: list[float]
    std: list[float]
    axes: Tensor


class Tally:
    """Sums over examples, kept on the device until asked for: [3] float64, loss, correct predictions, examples."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch's summed loss and its correct predictions, without waiting for the device."""
        right = (logits.argmax(1) == labels).sum()
        self.sums += torch.stack([loss.detach().double(), right.double(), self.sums.new_full((), len(labels))])

    def take(self) -> list[float]:
        """Loss, correct predictions and examples over all processes; resets the tally."""
        if dist.is_initialized():
            dist.all_reduce(self.sums)
        totals = self.sums.tolist()
        self.sums.zero_()
        return totals


def share(total: int, held_out: int, examples: int | None) -> tuple[Tensor, Tensor]:
    """Training rows and held-out rows of a training set, the same for every seed; ascending. Raises a UserError if no
    training rows are left, or fewer than asked for.
    """
    order = torch.randperm(total, generator=torch.Generator().manual_seed(0))
    rest = total - held_out
    if rest < 1 or not 1 <= (examples or 1) <= rest:
        raise UserError(
            f"`examples` {examples or rest} and `held_out` {held_out} are impossible together: there are {total} "
            "training images; choose fewer."
        )
    end = total if examples is None else held_out + examples
    return order[held_out:end].sort().values, order[:held_out].sort().values


def stored_size(size: int) -> int:
    """Side to which photos are resized before they are cropped to ``size``."""
    return round(STORED * size)


def colours(dataset: Dataset, rows: Tensor) -> Colours:
    """The colours of the first of these rows."""
    images = dataset.subset(rows[: _SAMPLE[isinstance(dataset, ImageFolder)]]).images
    pixels = images.movedim(1, -1).reshape(-1, 3).double()
    variances, axes = torch.linalg.eigh(torch.cov(pixels.T))
    mean, std = ([round(value, 6) for value in each.tolist()] for each in (pixels.mean(0), pixels.std(0)))
    return Colours(mean, std, (axes * variances).float())


def augmented(images: Tensor, keys: Tensor, size: int, axes: Tensor | None) -> Tensor:
    """Random crops of ``size``, half of them mirrored, of images [B, C, S, S], which get a black border first if they
    are no larger; with ``axes``, colours shifted too.
    """
    if images.shape[2] <= size:
        images = functional.pad(images, (size // 8,) * 4)
    count, channels, side, _ = images.shape
    drawn = counter_rng.uniform(keys, 3, _CROP_STREAM)
    first = (drawn[:, :2] * (side - size + 1)).long()
    steps = torch.arange(size, device=images.device)
    down = first[:, :1] + steps
    along = torch.where(drawn[:, 2:] < 0.5, steps, size - 1 - steps) + first[:, 1:]
    which = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[:, None, None]
    cut = images[which, channel, down[:, None, :, None], along[:, None, None]]
    if axes is None:
        return cut
    alpha = LIGHTING * torch.special.ndtri(counter_rng.uniform(keys, 3, _LIGHT_STREAM))
    return cut + (alpha @ axes.T)[:, :, None, None]


def centred(images: Tensor, size: int) -> Tensor:
    """The central crops [B, C, size, size] of images."""
    first = (images.shape[2] - size) // 2
    return images[:, :, first : first + size, first : first + size]


def optimiser(network: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    weights = [p for p in network.parameters() if p.ndim > 1]
    biases = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": settings.weight_decay}, {"params": biases, "weight_decay": 0.0}]
    if settings.recipe == "2012":
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=0.9)
    return torch.optim.AdamW(groups, lr=settings.learning_rate)


def rate(settings: Settings, step: int, steps: int) -> float:
    """The learning rate of a step of ``steps`` in all."""
    done = step / steps
    if settings.recipe == "2012":
        return settings.learning_rate * 0.1 ** sum(done >= part for part in DECAYED_AT)
    if done < WARM_UP:
        return settings.learning_rate * (step + 1) / max(1, math.ceil(WARM_UP * steps))
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))


@dataclass(frozen=True, slots=True)
class Run:
    """A training run in one of its processes; all of them must make the same calls.

    Attributes:
        network: the bare network, on ``device``; images in [0, 1] of ``settings.size`` → logits.
        rows: the training rows in ``dataset``, the training file.
        axes: see `Colours`.
        accumulate: number of parts of a process's share of a batch, to save memory.
    """

    network: nn.Module
    dataset: Dataset
    rows: Tensor
    settings: Settings
    axes: Tensor
    device: torch.device
    accumulate: int = 1

    @property
    def steps(self) -> int:
        return self.settings.epochs * self.settings.steps_per_epoch(len(self.rows))

    @property
    def ranks(self) -> Ranks:
        return Ranks.joined(self.device)

    def train(self, optimiser: torch.optim.Optimizer, tally: Tally, first: int = 0) -> Iterator[int]:
        """Take the steps from ``first`` on, yielding the number of each once it is queued on the device."""
        settings, steps = self.settings, range(first, self.steps)
        axes = self.axes.to(self.device) if settings.recipe == "2012" else None
        smoothing = SMOOTHING if settings.recipe == "modern" else 0.0
        ranks = self.ranks
        model = ranks.parallel(self.network)
        per_epoch = settings.steps_per_epoch(len(self.rows))
        for step, (images, labels, rows) in zip(steps, _ahead(self._batch, steps), strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate(settings, step, self.steps)
            self.network.train()
            optimiser.zero_grad(set_to_none=True)
            keys = counter_rng.keys(settings.seed, step // per_epoch, rows.to(self.device, non_blocking=True))
            images, labels = (part.to(self.device, non_blocking=True) for part in (images, labels))
            parts = list(zip(*(each.tensor_split(self.accumulate) for each in (images, labels, keys)), strict=True))
            for number, (pixels, truth, key) in enumerate(parts, start=1):
                counter_rng.give_keys(self.network, key)
                more = number < len(parts)  # until the last part, gradients stay in this process
                with model.no_sync() if more and isinstance(model, DistributedDataParallel) else nullcontext():
                    with self._precision():
                        logits = model(augmented(pixels, key, settings.size, axes)).float()
                    loss = functional.cross_entropy(logits, truth, reduction="sum", label_smoothing=smoothing)
                    # DDP averages over processes, whose shares may differ in size
                    (loss * (ranks.size / settings.batch_size)).backward()
                tally.add(loss, logits, truth)
            optimiser.step()
            yield step
        counter_rng.give_keys(self.network, None)

    @torch.no_grad()
    def evaluate(self, dataset: Dataset, rows: Tensor) -> tuple[float, int, int]:
        """Mean loss, errors and number of these images, without random crops; every process evaluates its share."""
        tally = Tally(self.device)
        self.network.eval()
        ranks = self.ranks
        own = rows[ranks.rank :: ranks.size].split(_EVALUATED_AT_ONCE)

        def batch(number: int) -> tuple[Tensor, Tensor]:
            part = dataset.subset(own[number])
            return centred(part.images, self.settings.size), part.labels

        for images, labels in _ahead(batch, range(len(own))):
            images, labels = images.to(self.device), labels.to(self.device)
            with self._precision():
                logits = self.network(images).float()
            tally.add(functional.cross_entropy(logits, labels, reduction="sum"), logits, labels)
        loss, right, seen = tally.take()
        return loss / max(seen, 1), round(seen - right), round(seen)

    def _batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """This process's images, labels and rows of a step."""
        chosen = batch_rows(len(self.rows), self.settings.batch_size, self.settings.seed, step)
        rows = self.rows[self.ranks.own(chosen)]
        part = self.dataset.subset(rows)
        if self.device.type == "cuda":
            return part.images.pin_memory(), part.labels.pin_memory(), rows.pin_memory()
        return part.images, part.labels, rows

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16")


def fit(
    network: nn.Module,
    dataset: Dataset,
    *,
    seed: int,
    device: torch.device,
    progress: Progress | None = None,
    held_out: int = 0,
    examples: int | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Train in this one process, in place: the training of ``sweeps/alexnet.py`` as a trainer of recipes.

    Args:
        network: from ``advlab.models.alexnet:classifier``.
        progress: called after each epoch with its step and loss.
        held_out, examples: see `share`.
        settings: the other attributes of `Settings`.

    Returns:
        ``loss`` (mean over the last epoch), ``iterations``, ``seconds``, ``stop``.
    """
    started = time.perf_counter()
    rows, _ = share(len(dataset), held_out, examples)
    chosen = Settings(seed=seed, **settings)
    alexnet.initialise(network, seed)
    run = Run(network.to(device), dataset, rows, chosen, colours(dataset, rows).axes, device)
    tally = Tally(device)
    mean = math.nan
    for step in run.train(optimiser(network, chosen), tally):
        if (step + 1) % chosen.steps_per_epoch(len(rows)) == 0:
            loss, _, seen = tally.take()
            mean = loss / seen
            if progress is not None:
                progress(step + 1, {"loss": mean})
    network.eval()
    seconds = time.perf_counter() - started
    return {"loss": mean, "iterations": run.steps, "seconds": seconds, "stop": f"{chosen.epochs} epochs"}


def training_flops(network: nn.Module, size: int) -> int:
    """Floating-point operations per image and step: three times those of a forward pass."""
    weight = next(network.parameters())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, size, size, device=weight.device))
    return 3 * int(counter.get_total_flops())


def product_flops(device: torch.device, precision: Precision) -> float:
    """Floating-point operations per second of a large matrix product on this device, the best of five."""
    side = 8192 if device.type == "cuda" else 1024
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    one, other = torch.rand(2, side, side, device=device).to(dtype)
    best = math.inf
    for _ in range(5):
        started = time.perf_counter()
        (one @ other)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - started)
    return float(2 * side**3 / best)


def _ahead(make: Callable[[int], Item], numbers: Iterable[int]) -> Iterator[Item]:
    """The results of ``make`` for each number, computed ahead in a thread."""
    waiting: deque[Future[Item]] = deque()
    with ThreadPoolExecutor(1) as thread:
        for number in numbers:
            waiting.append(thread.submit(make, number))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
