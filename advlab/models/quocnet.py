"""QuocNet: Le, Ranzato, Monga, Devin, Chen, Corrado, Dean & Ng, "Building high-level features using large scale
unsupervised learning" (2012), arXiv 1112.6209.

Three stages, each of local filters that share no weights, L2 pooling, and local contrast normalisation, are trained at
once without labels by reconstruction ICA: a stage must reconstruct its input by the transposed filters (Le, Karpenko,
Ngiam & Ng 2011), of fixed norm (as in Stanford's UFLDL tutorial), while few of its pooled units are active.

Shapes: B images, C channels or M maps, [H, W] rows and columns. Every step works on the rows of a map that a `Space`
assigns to it: by default all, or some of them in each process (`advlab.training.row_parallel`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from advlab.errors import UserError
from advlab.models.local import Fields, LocalLinear

POOLING_FLOOR = 1e-4
"""ε of the pooled units √(ε + Σ z²): keeps the slope of the root finite at zero."""
SMALLEST_DEVIATION = 0.01
"""c of the local contrast normalisation y = g / max(c, σ) (Le et al. 2012, section 3.3)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageShape:
    """One stage: side and stride of receptive fields and pooling, number of maps, width of the normalisation."""

    field: int = 18
    stride: int = 1
    maps: int = 8
    pool: int = 5
    pool_stride: int = 1
    normalise: int = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class QuocNetShape:
    """A network: side and channels of its square images, side of the whitening filter, the stages from the image up."""

    size: int
    stages: tuple[StageShape, ...]
    channels: int = 3
    whiten: int = 1


PRESETS = {
    "quocnet-1b": QuocNetShape(size=200, stages=(StageShape(), StageShape(), StageShape())),
    "quocnet-small": QuocNetShape(
        size=32,
        whiten=9,
        stages=(
            StageShape(field=8, stride=2, pool=3),
            StageShape(field=4, pool=3, maps=16),
            StageShape(field=3, pool=2, maps=32),
        ),
    ),
    "quocnet-tiny": QuocNetShape(
        size=32,
        whiten=3,
        stages=(
            StageShape(field=6, pool=3, maps=2, normalise=3),
            StageShape(field=6, pool=5, maps=2, normalise=3),
            StageShape(field=6, pool=5, maps=2, normalise=3),
        ),
    ),
}


def preset(name: str) -> QuocNetShape:
    """The shape of one of ``PRESETS``; raises a UserError for an unknown name."""
    if name not in PRESETS:
        raise UserError(f"unknown model {name!r}; choose one of {', '.join(PRESETS)}.")
    return PRESETS[name]


class RowWise(Protocol):
    """A step from a map to a map, of which each output row depends on an interval of input rows."""

    rows_in: int
    rows: int

    def needs(self, first: int, last: int) -> tuple[int, int]:
        """The rows [begin, end) of the input that the rows [first, last) of the output depend on."""


class Space:
    """The distribution of a map's rows over processes, here a single one; all methods are differentiable."""

    def share(self, rows: int) -> tuple[int, int]:
        """The rows [first, last) of a map of ``rows`` rows that this process holds."""
        return 0, rows

    def enter(self, images: Tensor, step: RowWise) -> Tensor:  # noqa: ARG002
        """Images that every process has in full → the rows that its share of the step's output needs."""
        return images

    def fetch(self, mine: Tensor, step: RowWise) -> Tensor:
        """The rows of the step's input that this process holds → those that its share of the output needs."""
        return mine[:, :, : step.needs(0, step.rows)[1]]  # with a stride, the last rows may be in no field

    def give_back(self, needed: Tensor, step: RowWise) -> Tensor:
        """The transpose of ``fetch``: the sum, over processes, of their values for the rows that this one holds."""
        return functional.pad(needed, (0, 0, 0, step.rows_in - needed.shape[2]))

    def leave(self, mine: Tensor, rows: int) -> Tensor:  # noqa: ARG002
        """This process's rows of a map of ``rows`` rows → the whole map, in every process."""
        return mine


class Whitening(nn.Module):
    """Images [B, C, H, W] in [0, 1] → centred and whitened by one symmetric ("zero-phase") filter, the same at all
    positions; it is the identity until ``fit`` sets it from images.
    """

    def __init__(self, channels: int, rows: int, side: int, device: Any = None) -> None:
        super().__init__()
        self.rows_in = self.rows = rows
        self.radius = side // 2
        self.mean = nn.Buffer(torch.empty(channels, device=device))
        self.filter = nn.Buffer(torch.empty(channels, channels, side, side, device=device))

    def reset(self) -> None:
        self.mean.zero_()
        self.filter.zero_()[:, :, self.radius, self.radius].fill_diagonal_(1)

    @torch.no_grad()
    def fit(self, images: Tensor, floor: float = 0.015) -> tuple[Tensor, Tensor]:
        """Whiten by the principal components of these images' windows, suppressing those of small variance.

        A component of variance v gets the deviation v² / (v² + (``floor`` · mean variance)²): components below the
        floor are mostly noise and, in grey photos, exactly zero, which training would exploit as sparsity.

        Returns for images [N, C, H, W] the filter [C, C, side, side] that gives white noise the spectrum of the
        whitened images, and the variance [] that it then has.
        """
        side, channels = self.filter.shape[-1], len(self.mean)
        self.mean.copy_(images.mean((0, 2, 3)))
        places = Fields(images.shape[3], side, max(1, side // 2))
        patches = functional.unfold(images - self.mean.view(-1, 1, 1), side, stride=places.stride).double()
        flat = patches.transpose(1, 2).flatten(0, 1)
        variance, directions = torch.linalg.eigh(flat.T @ flat / len(flat))
        kept = variance.square() / (variance.square() + (floor * variance.mean()).square())

        def symmetric(gain: Tensor) -> Tensor:
            matrix = (directions * gain @ directions.T).view(channels, side, side, channels, side, side)
            return matrix[:, self.radius, self.radius]

        self.filter.copy_(symmetric(kept / variance.clamp_min(torch.finfo(torch.float32).tiny).sqrt()))
        return symmetric(kept).to(self.filter), kept.square().mean()

    def needs(self, first: int, last: int) -> tuple[int, int]:
        return max(0, first - self.radius), min(self.rows, last + self.radius)

    def forward(self, images: Tensor, first: int, last: int) -> Tensor:
        """The rows [first, last) of the output, from the rows that they need."""
        begin, _ = self.needs(first, last)
        filtered = functional.conv2d(images - self.mean.view(-1, 1, 1), self.filter, padding=self.radius)
        return filtered[:, :, first - begin : last - begin]


class L2Pool(nn.Module):
    """Maps [B, M, H, W] → √(ε + Σ z²) over overlapping windows, each map separately."""

    def __init__(self, rows: int, side: int, stride: int) -> None:
        super().__init__()
        self.fields = Fields(rows, side, stride)
        self.rows_in, self.rows, self.needs = rows, self.fields.places, self.fields.needs

    def forward(self, maps: Tensor) -> Tensor:
        """The rows that the given ones determine."""
        side = self.fields.side
        energy = functional.avg_pool2d(maps.square(), side, self.fields.stride, divisor_override=1)
        return (energy + POOLING_FLOOR).sqrt()


class ContrastNormalisation(nn.Module):
    """Maps [B, M, H, W] → minus the local mean, over the local deviation; both over all maps, by a Gaussian window.

    At the border the window is cropped and its weights are rescaled, so that constant maps become zero there, too.
    """

    def __init__(self, rows: int, width: int, side: int, device: Any = None) -> None:
        super().__init__()
        self.rows_in = self.rows = rows
        self.radius = side // 2
        self.width = width
        self.window = nn.Buffer(torch.empty(1, 1, side, side, device=device), persistent=False)
        self.mass = nn.Buffer(torch.empty(1, 1, rows, width, device=device), persistent=False)

    def reset(self) -> None:
        """Set the window: a Gaussian whose deviation is half its radius."""
        places = torch.arange(-self.radius, self.radius + 1, dtype=torch.float64)
        profile = torch.exp(-0.5 * (places / max(self.radius / 2, 0.5)).square())
        profile /= profile.sum()
        self.window.copy_(torch.outer(profile, profile))
        self.mass.copy_(functional.conv2d(torch.ones_like(self.mass), self.window, padding=self.radius))

    def needs(self, first: int, last: int) -> tuple[int, int]:
        """See `RowWise`: the deviation at a position uses means around it, hence twice the radius."""
        return max(0, first - 2 * self.radius), min(self.rows, last + 2 * self.radius)

    def forward(self, maps: Tensor, first: int, last: int) -> Tensor:
        """The rows [first, last) of the output, from the rows that they need."""
        begin, end = self.needs(first, last)
        mass = self.mass[:, :, begin:end]
        centred = maps - self._blur(maps.mean(1, keepdim=True)) / mass
        variance = self._blur(centred.square().mean(1, keepdim=True)) / mass
        normalised = centred / variance.clamp_min(SMALLEST_DEVIATION**2).sqrt()
        return normalised[:, :, first - begin : last - begin]

    def _blur(self, values: Tensor) -> Tensor:
        return functional.conv2d(values, self.window, padding=self.radius)


class Objective(NamedTuple):
    """A stage's part of the cost, summed over images and over the rows that this process holds: ``error`` Σ ‖WᵀWx −
    x‖², ``activity`` Σ of the pooled units, ``energy`` Σ ‖x‖². A tuple, as FSDP looks for tensors in tuples.
    """

    error: Tensor
    activity: Tensor
    energy: Tensor
    images: int


class Stage(nn.Module):
    """Local filters, L2 pooling, local contrast normalisation."""

    def __init__(self, shape: StageShape, channels: int, size: tuple[int, int], device: Any = None) -> None:
        super().__init__()
        rows, width = size
        self.local = LocalLinear(channels, size, shape.maps, shape.field, shape.stride, device)
        self.rows_in, self.rows, self.needs = rows, self.local.fields.places, self.local.fields.needs
        places = Fields(width, shape.field, shape.stride).places
        self.pool = L2Pool(self.rows, shape.pool, shape.pool_stride)
        pooled = Fields(places, shape.pool, shape.pool_stride).places
        self.normalise = ContrastNormalisation(self.pool.rows, pooled, shape.normalise, device)
        self.maps, self.size = shape.maps, (self.pool.rows, pooled)
        self.space = Space()

    def forward(self, inputs: Tensor, learn: bool = False) -> tuple[Tensor, Objective | None]:
        """Own rows [B, C, h, W] of the input → own rows of the output, and the stage's cost if ``learn``."""
        space = self.space
        responses = self.local(space.fetch(inputs, self))
        pooled = self.pool(space.fetch(responses, self.pool))
        output = self.normalise(space.fetch(pooled, self.normalise), *space.share(self.normalise.rows))
        if not learn:
            return output, None
        error = (space.give_back(self.local.decode(responses), self) - inputs).square().sum()
        return output, Objective(error, pooled.sum(), inputs.square().sum(), len(inputs))


class QuocNet(nn.Module):
    """Images [B, C, H, W] in [0, 1] → top features [B, M·H′·W′]; without a ``seed``, the weights are not set."""

    def __init__(self, shape: QuocNetShape, *, seed: int | None = 0, device: Any = None) -> None:
        super().__init__()
        self.shape = shape
        self.whitening = Whitening(shape.channels, shape.size, shape.whiten, device)
        self.stages = nn.ModuleList()
        channels, size = shape.channels, (shape.size, shape.size)
        for each in shape.stages:
            if min(size) < each.field + (each.pool - 1) * each.stride:
                raise UserError(
                    f"images of {shape.size} pixels are too small for {len(shape.stages)} stages of these sizes."
                )
            stage = Stage(each, channels, size, device)
            self.stages.append(stage)
            channels, size = each.maps, stage.size
        self.num_features = channels * size[0] * size[1]
        self.space = Space()
        if seed is not None:
            self.initialise(seed)

    def initialise(self, seed: int) -> None:
        """Set all weights and buffers; every row of filters has its own generator, so its owner does not matter."""
        for number, stage in enumerate(self.chain()):
            layer = stage.local
            first, own = layer.first_row, layer.own_weight().detach()
            for row in range(len(own)):
                generator = torch.Generator().manual_seed(((seed << 8) + number << 20) + first + row)
                own[row] = torch.randn(own.shape[1:], generator=generator)
            layer.variance.fill_(1)
            stage.normalise.reset()
        self.whitening.reset()
        self.keep_lengths()

    def fit_whitening(self, images: Tensor) -> None:
        """Fit the whitening to images [N, C, H, W], and give new filters of the first stage their spectrum.

        In directions in which the whitened images have almost no variance, the cost hardly depends on a filter: random
        components there would stay.
        """
        spectrum, variance = self.whitening.fit(images)
        first = self.chain()[0].local
        first.variance.copy_(variance)
        first.smooth(spectrum)
        first.keep_lengths()

    def keep_lengths(self) -> None:
        """Rescale all filters to their norms, in place, after every step of an optimiser.

        Otherwise a filter whose activity costs more than it reduces the error shrinks to zero; as the activity of a
        pooled group is penalised as a whole, so do all filters of the group.
        """
        for stage in self.chain():
            stage.local.keep_lengths()

    def forward(self, images: Tensor) -> Tensor:
        """Top features [B, M·H′·W′], the same in every process."""
        maps = self._enter(images)
        for stage in self.stages:
            maps, _ = stage(maps)
        return self.space.leave(maps, self.chain()[-1].normalise.rows).flatten(1)

    def objectives(self, images: Tensor, joint: bool = False) -> list[Objective]:
        """The stages' parts of the cost, each with gradients for its own stage and, if ``joint``, for those below."""
        maps, parts = self._enter(images), []
        for stage in self.stages:
            maps, part = stage(maps if joint else maps.detach(), learn=True)
            parts.append(part)
        return parts

    @staticmethod
    def loss(parts: list[Objective], sparsity: float) -> Tensor:
        """Σ over stages of ‖WᵀWx − x‖² + ``sparsity`` · Σ pooled, per image; the part of own rows, a scalar."""
        return torch.stack([(part.error + sparsity * part.activity) / part.images for part in parts]).sum()

    def _enter(self, images: Tensor) -> Tensor:
        own = self.space.share(self.whitening.rows)
        return self.whitening(self.space.enter(images, self.whitening), *own)

    def chain(self) -> list[Stage]:
        """The stages, from the image up."""
        return [stage for stage in self.stages if isinstance(stage, Stage)]


class BinaryClassifier(nn.Module):
    """Images → logits [B, 2] of "no" and "yes": a logistic regression, ``weight`` [F] and ``bias`` [], on features [B,
    F].

    The logits are the sums of negative and of positive evidence, and their difference is the score. So their magnitude
    shows the rounding error of the score, which [-score/2, score/2] would not: at the boundary both are 0, and attacks
    stop within rounding error of it.
    """

    def __init__(self, features: Callable[[Tensor], Tensor], weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.features = features
        self.weight, self.bias = nn.Buffer(weight), nn.Buffer(bias)

    def forward(self, images: Tensor) -> Tensor:
        terms = self.features(images) * self.weight
        score, size = terms.sum(1) + self.bias, terms.abs().sum(1) + self.bias.abs()
        return torch.stack([size - score, size + score], dim=1) / 2


def parameter_count(shape: QuocNetShape) -> int:
    """Number of weights, computed without allocating them."""
    return sum(weight.numel() for weight in QuocNet(shape, seed=None, device="meta").parameters())
