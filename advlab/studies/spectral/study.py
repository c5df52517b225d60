"""Table 5 for any model: layers are units of work, and everything lies in Parquet."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from torch import nn

from advlab import data
from advlab.analysis.layer_graph import Layer, Network
from advlab.analysis.layer_row import LayerRow, measure_layer, probes
from advlab.analysis.lipschitz import product_bounds
from advlab.attacks import minimum_norm
from advlab.engine.pool import ActorPool, require_success
from advlab.engine.progress import Stage
from advlab.engine.session import host_count
from advlab.engine.worker import Resources, Unit
from advlab.errors import UserError
from advlab.models.resolve import Resolved, resolve
from advlab.models.study_models import is_stored
from advlab.store import Store, Study
from advlab.store.addresses import address
from advlab.store.layout import MANIFEST
from advlab.store.schema import SHAPE_KEY, decode_images, image_column

VERSION = 1
"""Of the computation: a number that differs makes layers anew."""
LAYERS, SPECTRA, PAIRS = "layers.parquet", "spectra.parquet", "pairs.parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class SpectralConfig:
    """What decides the rows of a spectral study."""

    model: str
    """A zoo name, torchvision:NAME[@WEIGHTS or @random], timm:NAME, file:PATH.py:FACTORY, python:MODULE:FACTORY, or the
    path of a checkpoint (.safetensors)."""

    data: str = ""
    """Images at which gains are measured: mnist, fashion_mnist, cifar10 or folder:PATH; when absent those that a zoo
    model or a checkpoint was trained on, and uniform noise for models from elsewhere."""

    split: str = "test"
    """Split of the images."""

    train_data: str = "mnist"
    """Data set a zoo model is trained on."""

    input_size: int | None = None
    """Height and width of the images, where neither data nor the model's name tells; 224 otherwise."""

    images: int = 8
    """Number of images at which Jacobians are taken and which are attacked."""

    iterations: int = 20
    """Power iterations per image and layer."""

    seed: int = 0
    """Seed of training, of noise images and of the power iterations."""


@dataclass(frozen=True, slots=True)
class SpectralPlan:
    """A spectral study, checked: its settings, the model, and the images [N, C, H, W]."""

    config: SpectralConfig
    subject: Resolved
    images: torch.Tensor


@dataclass(frozen=True, slots=True)
class PairsUnit:
    """Attack the images: the nearest misread image of each."""

    store: str
    key: str

    name = kind = "attack the images"

    def run(self, resources: Resources) -> None:
        model: nn.Module = resources.get("model").to(resources.device)
        images = torch.tensor(resources.input).to(resources.device)
        with torch.no_grad():
            labels = model(images).argmax(1)  # what the model itself says, so that every image counts
        found = minimum_norm(model, images, labels)
        table = pa.table(
            {
                "label": labels.cpu().numpy(),
                "success": found.success.cpu().numpy(),
                "l2": found.l2.double().cpu().numpy(),
                "image": image_column(found.images.cpu().numpy()),
            }
        ).replace_schema_metadata({SHAPE_KEY: str(list(images.shape[1:])).encode()})
        Store(self.store).write_table(PAIRS, table, self.key)


@dataclass(frozen=True, slots=True)
class LayerUnit:
    """Measure one layer and write its row."""

    store: str
    position: int
    name: str
    kind: str
    key: str
    iterations: int
    seed: int

    def run(self, resources: Resources) -> None:
        images, adversarial = (torch.tensor(array) for array in resources.input)
        network: Network = resources.memo("network", lambda: Network(resources.get("model").cpu(), images.shape[1:]))
        layer = network.layers[self.position]
        row = measure_layer(network, layer, images, adversarial, iterations=self.iterations, seed=self.seed)
        values = {field.name: [getattr(row, field.name)] for field in fields(LayerRow)}
        Store(self.store).write_table(part(self.position), pa.table({"position": [self.position], **values}), self.key)


def part(position: int) -> str:
    """The file of one layer."""
    return f"layers/part-{position:08d}.parquet"


def prepare(config: SpectralConfig) -> SpectralPlan:
    """Load the model and the images.

    Raises:
        UserError: an unknown model or data set, or an impossible number.
    """
    for option, value in (("--images", config.images), ("--iterations", config.iterations)):
        if value < 1:
            raise UserError(f"{option} {value} is impossible; choose at least 1.")
    if config.seed < 0:
        raise UserError(f"--seed {config.seed} is impossible; choose 0 or more.")
    subject = resolve(config.model, config.train_data, config.seed)
    size = config.input_size or subject.input_size
    name = config.data or subject.own_data
    if not name and is_stored(config.model):
        raise UserError(f"model {config.model!r} was trained on none of advlab's own data sets; name one with --data.")
    if name:
        dataset = data.load(name, config.split, size=size)
        images = dataset.subset(slice(config.images)).images
    else:
        images = probes((3, size, size), config.images, config.seed)
    return SpectralPlan(config, subject, images)


def begin(plan: SpectralPlan, out: str | None) -> Study:
    """Start a study, or continue it where ``out`` holds part of it.

    Raises:
        UserError: a folder that cannot be used, or weights that differ from those the study began with.
    """
    study = Study.begin("spectral", asdict(plan.config), out)
    plan.subject.record_in(study)
    return study


def run(
    plan: SpectralPlan,
    study: Study,
    pool: ActorPool,
    *,
    on_progress: Callable[[dict[str, float]], None] = lambda _: None,
) -> None:
    """Measure every layer that is not yet measured; Ray must be connected.

    Raises:
        UserError: the model cannot be traced, or units of work failed; the others are done and kept.
    """
    config, store = plan.config, study.store
    images = plan.images.numpy()
    network = Network(plan.subject.model, tuple(images.shape[1:]))
    if not network.layers:
        raise UserError(f"model {config.model!r} has no linear layer and no convolution; choose another.")
    decisive = (VERSION, plan.subject.fingerprint, images.shape, hashlib.sha256(images.tobytes()).hexdigest())
    pool.require_file(study.store.uri, MANIFEST)
    pool.share("model", plan.subject.model)
    pairs_key = address("pairs", *decisive)
    if not store.holds(PAIRS, pairs_key):
        shared = ray.put(images)
        require_success(pool.run([PairsUnit(store.uri, pairs_key)], inputs=lambda _: shared), study.store.uri)
    pair = ray.put((images, decode_images(store.read_table(PAIRS))))
    keys = [address("layer", layer.name, config.iterations, config.seed, *decisive) for layer in network.layers]
    units: list[Unit] = [
        LayerUnit(store.uri, position, layer.name, _kind(layer), keys[position], config.iterations, config.seed)
        for position, layer in enumerate(network.layers)
        if not store.holds(part(position), keys[position])
    ]
    done = len(keys) - len(units)
    with Stage("measuring layers", len(keys), done=done) as stage:

        def follow(unit: Unit, _answer: Any) -> Iterable[Unit]:
            stage.advance(unit.name)
            on_progress({"layers": stage.done})
            return ()

        require_success(pool.run(units, follow, inputs=lambda _: pair, on_status=stage.say, depth=1), study.store.uri)
    if units or not store.exists(LAYERS):
        _conclude(study, network, len(keys))


def _kind(layer: Layer) -> str:
    """Layers of equal shape take about the same time."""
    return f"{type(layer.module).__name__} {tuple(layer.module.weight.shape)} {layer.shape}"  # type: ignore[arg-type]


def _conclude(study: Study, network: Network, count: int) -> None:
    """Merge the layers' rows and add the product bound."""
    table = pa.concat_tables([study.store.read_shard(part(position)) for position in range(count)])
    known = dict(zip((layer.node for layer in network.layers), table["upper_padded"].to_pylist(), strict=True))
    bounds = product_bounds(network, known)
    products = [bounds[layer.node] for layer in network.layers]
    spectra = np.stack(table["spectrum"].to_pylist())
    quantile = (np.arange(spectra.shape[1]) + 0.5) / spectra.shape[1]
    study.store.write_table(
        SPECTRA,
        pa.table(
            {
                "position": np.repeat(np.arange(count), len(quantile)),
                "quantile": np.tile(quantile, count),
                "value": spectra.ravel(),
            }
        ),
    )
    rows = table.drop_columns(["spectrum"]).append_column("product_bound", pa.array(products, pa.float64()))
    study.store.write_table(LAYERS, rows)
    last = bounds[network.nodes[-1]]
    study.manifest["product_bound"] = last if math.isfinite(last) else None
    study.finish(host_count())
