"""Training on clean images mixed with examples from the pool, without waiting for generators, resumable.

All randomness of a step is derived from (seed, step), so a continued run takes the same steps, to the last bit. Several
processes of ``torch.distributed`` can share a run: each has the whole network, a shard of the pool from which it draws,
and its share of every batch, which it attacks and trains on; DDP averages gradients, so all take the same step.
"""

import math
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from advlab import models
from advlab.data import Dataset
from advlab.errors import UserError, one_line
from advlab.hardening import attack, virtual
from advlab.hardening.levels import Levels, Mixture
from advlab.hardening.pool import Batch, Pool, merged
from advlab.hardening.settings import Settings
from advlab.models.mlp import MLP, initialise
from advlab.training import trainer_state
from advlab.training.data_parallel import Ranks
from advlab.training.decay import WeightDecay

CPU = torch.device("cpu")
RANK_STRIDE = 1 << 40
"""Offset between the random streams of two processes: more than the steps of any run."""
WARM_UP = 0.1
"""Share of the steps over which the learning rate rises."""
READ_AT_ONCE = 1000
"""Examples of a pool per forward pass."""


class Source(Protocol):
    """A source of adversarial examples."""

    def poll(self, trainer: "Trainer", rows: Tensor) -> Iterator[dict[int, Batch]]:
        """The examples that are ready now, without waiting, for a trainer (it has the newest weights, which are
        attacked) and the ``rows`` [b] of the clean images of its next step.
        """


class Alternating:
    """A `Source` that attacks a part of each clean batch just before training on it: deterministic."""

    def poll(self, trainer: "Trainer", rows: Tensor) -> Iterator[dict[int, Batch]]:
        chosen = rows[: trainer.ranks.share(trainer.settings.refresh)]
        attacked = trainer.network, trainer.levels, trainer.dataset, trainer.settings, chosen
        yield attack.examples(*attacked, trainer.step, trainer.draws)


class Frozen:
    """A `Source` without examples: training on the pool of another run, unchanged."""

    def poll(self, _trainer: "Trainer", _rows: Tensor) -> Iterator[dict[int, Batch]]:
        return iter(())


def build(settings: Settings, dataset: Dataset) -> nn.Module:
    """The untrained network; raises a UserError if its name is unknown, or its number of classes another."""
    if settings.network is not None:
        return models.build(settings.network, dataset)
    widths = [math.prod(dataset.images.shape[1:]), *settings.hidden, dataset.num_classes]
    return MLP(widths, settings.activation, settings.dropout)


def cut(network: nn.Module, settings: Settings, dataset: Dataset) -> tuple[Levels, list[tuple[int, ...]]]:
    """A network from ``build``, split at its levels, and the shape of one example at each. Raises a UserError if it
    cannot be split, or does not take these images or have these classes.
    """
    levels = Levels(network)
    was_training = network.training
    network.eval()
    try:
        *shapes, logits = levels.shapes(dataset.images)
    except RuntimeError as error:
        shape = " × ".join(map(str, dataset.images.shape[1:]))
        raise UserError(
            f"`network` {settings.network!r} does not take the {shape} images of {dataset.name} ({one_line(error)}); "
            "choose one that does."
        ) from error
    network.train(was_training)
    if logits != (dataset.num_classes,):
        raise UserError(
            f"`network` {settings.network!r} returns logits of shape {list(logits)}, and {dataset.name} has "
            f"{dataset.num_classes} classes; choose one with as many."
        )
    return levels, shapes


class Trainer:
    """A network with its pool and optimiser, trained step by step.

    Args:
        seed: of initial weights, order, draws and dropout.
        pool: initial pool of all processes; an empty one by default.

    Attributes:
        ranks: the processes that share the run.
        pool: this process's shard.
        shapes: of one example at every level.
        step, total: steps taken, and steps of the whole run.
    """

    def __init__(
        self,
        settings: Settings,
        dataset: Dataset,
        *,
        seed: int,
        source: Source,
        pool: Pool | None = None,
        device: torch.device = CPU,
    ) -> None:
        self.settings, self.dataset, self.seed, self.source = settings, dataset.to(device), seed, source
        self.ranks = Ranks.joined(device)
        self.network = build(settings, dataset)
        rectified = any(isinstance(module, nn.ReLU) for module in self.network.modules())
        initialise(self.network, "kaiming" if rectified else "glorot", torch.Generator().manual_seed(seed))
        self.levels, self.shapes = cut(self.network.to(device), settings, self.dataset)
        settings.require_levels(self.levels.count)
        self._mixture = self.ranks.parallel(Mixture(self.levels))
        whole = pool or Pool(settings.capacity, settings.replacement, settings.max_age)
        self._capacity = whole.capacity
        self.pool = Pool(self.ranks.share(whole.capacity), whole.replacement, whole.max_age)
        self.take_shard([whole.state()])
        self.optimiser = torch.optim.Adam(self.network.parameters(), betas=(0.9, 0.99), fused=True)
        self._decay = WeightDecay(self.network, settings.weight_decay, "half")
        self.steps_per_epoch = -(-len(dataset) // settings.batch_size)
        self.total = settings.epochs * self.steps_per_epoch
        self.step = 0
        self.draws = torch.Generator()
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def run(self, steps: int) -> dict[str, float]:
        """Take ``steps`` steps; returns ``loss`` (mean cost of a step), ``examples`` (rows trained on, clean and
        drawn), and for each level in use ``age``, ``lag`` and ``hit_rate`` of the pool after them.
        """
        self.network.train()
        total, examples = torch.zeros((), device=self.ranks.device), 0
        for _ in range(steps):
            cost, rows = self._advance()
            total += cost
            examples += rows
        loss, seen = self.ranks.sums([float(total), float(examples)])
        return {"loss": loss / max(steps, 1), "examples": seen, **self.measured()}

    def measured(self) -> dict[str, float]:
        """Age, lag and hit rate (share that the current network misclassifies) of the pool."""
        metrics: dict[str, float] = {}
        predictions = self.predictions(self.pool)
        for level in range(self.levels.count):
            own, held = [0.0, 0.0, 0.0], self.pool.layers.get(level)
            if held is not None:
                hit_rate = float((predictions[level] != held.labels).float().mean())
                own = [self.pool.age(level, self.step), self.pool.lag(level), hit_rate]
            means = self.ranks.means(own, 0 if held is None else len(held))
            metrics |= dict(zip((f"age_{level}", f"lag_{level}", f"hit_rate_{level}"), means, strict=False))
        return metrics

    @torch.no_grad()
    def predictions(self, pool: Pool) -> dict[int, Tensor]:
        """By level, the classes [C] that the network now predicts for a pool's examples."""
        was_training = self.network.training
        self.network.eval()
        read = {}
        for level, held in pool.layers.items():
            tail, shape = self.levels.tail(level), self.shapes[level]
            parts = held.values.split(READ_AT_ONCE)
            read[level] = torch.cat([tail(part.to(self.ranks.device).view(-1, *shape)).argmax(1) for part in parts])
        self.network.train(was_training)
        return read

    def take_shard(self, states: list[dict[str, Tensor]]) -> None:
        """Take this process's share of a pool given by the states of any number of shards."""
        ranks = self.ranks
        if len(states) == ranks.size:
            shard = states[ranks.rank]
        else:  # the examples are dealt out in turn
            shard = {name: column[ranks.rank :: ranks.size] for name, column in merged(states).items()}
        self.pool.restore({name: column.to(ranks.device) for name, column in shard.items()})

    def whole_pool(self) -> Pool | None:
        """The pool of all processes, in the first process; None in the others."""
        shards = self.ranks.gathered({name: column.cpu() for name, column in self.pool.state().items()})
        if not shards:
            return None
        pool = Pool(self._capacity, self.pool.replacement, self.pool.max_age)
        pool.restore(merged(shards))
        return pool

    def _advance(self) -> tuple[Tensor, int]:
        settings = self.settings
        stream = self.seed * 1_000_003 + self.step + self.ranks.rank * RANK_STRIDE
        self.draws.manual_seed(stream)
        if settings.dropout or settings.network is not None:
            torch.manual_seed(stream)
        batch = self._rows()
        rows = self.ranks.own(batch)
        if settings.levels:
            for examples_by_level in self.source.poll(self, rows):
                for level, examples in examples_by_level.items():
                    self.pool.push(level, examples, now=self.step, generator=self.draws)
        for group in self.optimiser.param_groups:
            group["lr"] = settings.learning_rate * schedule(self.step / self.total)
        self.optimiser.zero_grad(set_to_none=True)
        cost, seen = self._cost(self.dataset.images[rows], self.dataset.labels[rows])
        # weigh each process by its share of the clean images, as DDP takes plain means
        share = len(rows) / len(batch)
        (cost * (share * self.ranks.size)).backward()
        self.optimiser.step()
        self.step += 1
        return cost.detach() * share, seen

    def _rows(self) -> Tensor:
        """Rows of the clean images of this step, of all processes."""
        epoch, place = divmod(self.step, self.steps_per_epoch)
        if self._order[0] != epoch:
            order = torch.Generator().manual_seed(self.seed * 7_368_787 + epoch)
            self._order = epoch, torch.randperm(len(self.dataset), generator=order).to(self.ranks.device)
        size = self.settings.batch_size
        return self._order[1][place * size : (place + 1) * size]

    def _cost(self, images: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        """The loss of clean images and drawn examples in one pass; drawn rows join at their level."""
        clean, device = len(labels), labels.device
        classes, weights = [labels], [torch.full((clean,), 1 / clean, device=device)]
        joining: dict[int, Tensor] = {}
        drawn: list[tuple[int, Tensor]] = []
        scale = 1.0
        for level in sorted(set(self.settings.levels)):
            rows, batch = self.pool.draw(level, clean, now=self.step, generator=self.draws)
            if len(batch):
                joining[level] = batch.values.view(-1, *self.shapes[level])
                classes.append(batch.labels)
                # a pool with too few examples counts in proportion
                weights.append(torch.full((len(batch),), self.settings.mixing[level] / clean, device=device))
                scale += self.settings.mixing[level] * len(batch) / clean
                drawn.append((level, rows))
        answers = self._mixture(images, joining)
        losses = functional.cross_entropy(answers, torch.cat(classes), reduction="none")
        cost = torch.dot(losses, torch.cat(weights)) / scale
        if self.pool.replacement == "easiest":
            parts = losses.detach().split([len(part) for part in classes])[1:]
            for (level, rows), part in zip(drawn, parts, strict=True):
                self.pool.record(level, rows, part)
        if self.settings.weight_decay:
            cost = cost + self._decay()
        if self.settings.virtual:
            logits = answers[:clean]
            cost = cost + virtual.divergence(self.network, images, logits, self.settings.virtual, self.draws)
        return cost, len(losses)

    def state(self) -> dict[str, Any]:
        """The state for ``restore``, without the pool."""
        return {"step": self.step, "network": self.network.state_dict(), "optimiser": self.optimiser.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a ``state``, with the pool that belongs to it."""
        self.step = trainer_state.step(state, self.total)
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])


def schedule(progress: float) -> float:
    """Learning rate, relative to its peak, after a fraction of the steps: linear up, half a cosine down."""
    if progress < WARM_UP:
        return progress / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))
