"""The spectral study: Table 5 for any model, with layers as units of work."""

import hashlib
import math
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import ray

from advlab import data
from advlab.analysis.layer_graph import Layer, Network
from advlab.analysis.layer_row import probes
from advlab.analysis.lipschitz import product_bounds
from advlab.command import also, require_at_least
from advlab.engine.pool import ActorPool, complete, require_success
from advlab.engine.progress import OnProgress
from advlab.engine.session import host_count
from advlab.errors import UserError
from advlab.models.resolve import resolve
from advlab.models.study_models import is_stored
from advlab.store import MANIFEST, Study, address
from advlab.store.schema import decode_images
from advlab.studies.experiment import ModelExperiment, ModelPlan
from advlab.studies.spectral import show as presentation
from advlab.studies.spectral.work import PAIRS, LayerUnit, PairsUnit, part

VERSION = 1
"""Version of the computation: layers of other versions are computed again."""
LAYERS, SPECTRA = "layers.parquet", "spectra.parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class SpectralConfig:
    """Settings that determine the rows of a spectral study."""

    model: str
    """A zoo name, torchvision:NAME[@WEIGHTS or @random], timm:NAME, file:PATH.py:FACTORY, python:MODULE:FACTORY, or the
    path of a checkpoint (.safetensors)."""
    data: Annotated[str, also("--dataset")] = ""
    """Images at which gains are measured: mnist, fashion_mnist, cifar10 or folder:PATH; by default those that a zoo
    model or a checkpoint was trained on, and uniform noise for external models."""
    split: str = "test"
    """Split of the images."""
    train_data: str = "mnist"
    """Data set a zoo model is trained on."""
    input_size: int | None = None
    """Height and width of the images; by default as the data or the model's name imply, or 224."""
    images: Annotated[int, also("--examples")] = 8
    """Number of images that are attacked and at which Jacobians are computed."""
    iterations: int = 20
    """Power iterations per image and layer."""
    seed: int = 0
    """Seed of training, of noise images and of the power iterations."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spectral(ModelExperiment):
    """Frame bounds of every layer of a network, and its measured amplification: the paper's Table 5."""

    kind = "spectral"

    settings: SpectralConfig

    def prepare(self) -> ModelPlan:
        config = self.settings
        require_at_least(config, images=1, iterations=1, seed=0)
        subject = resolve(config.model, config.train_data, config.seed)
        size = config.input_size or subject.input_size
        name = config.data or subject.own_data
        if not name and is_stored(config.model):
            raise UserError(
                f"model {config.model!r} was not trained on one of advlab's own data sets; give one with --data."
            )
        if name:
            images = data.load(name, config.split, size=size).subset(slice(config.images)).images
        else:
            images = probes((3, size, size), config.images, config.seed)
        return ModelPlan(config, subject, images)

    def run(self, plan: ModelPlan, study: Study, workers: ActorPool, on_progress: OnProgress) -> None:
        """Measure the layers that are missing; a UserError if the model cannot be traced."""
        config, store, pool = plan.config, study.store, workers
        images = plan.images.numpy()
        network = Network(plan.subject.model, tuple(images.shape[1:]))
        if not network.layers:
            raise UserError(f"model {config.model!r} has no linear layer and no convolution; choose another.")
        decisive = (VERSION, plan.subject.fingerprint, images.shape, hashlib.sha256(images.tobytes()).hexdigest())
        pool.require_file(store.uri, MANIFEST, study.save_manifest)
        pool.share("model", plan.subject.model)
        pairs_key = address("pairs", *decisive)
        if not store.holds(PAIRS, pairs_key):
            shared = ray.put(images)
            require_success(pool.run([PairsUnit(store.uri, pairs_key)], inputs=lambda _: shared), store.uri)
        pair = ray.put((images, decode_images(store.read_table(PAIRS))))
        keys = [address("layer", layer.name, config.iterations, config.seed, *decisive) for layer in network.layers]
        units = [
            LayerUnit(store.uri, position, layer.name, _kind(layer), keys[position], config.iterations, config.seed)
            for position, layer in enumerate(network.layers)
            if not store.holds(part(position), keys[position])
        ]

        def record(_unit: Any, _answer: Any, done: int) -> None:
            on_progress({"layers": done})

        complete(pool, units, store.uri, "measuring layers", len(keys), record, inputs=lambda _: pair, depth=1)
        if units or not store.exists(LAYERS):
            _conclude(study, network, len(keys))

    show = staticmethod(presentation.show)


def _kind(layer: Layer) -> str:
    """The kind of unit: layers of equal shape take about the same time."""
    return f"{type(layer.module).__name__} {tuple(layer.module.weight.shape)} {layer.shape}"  # type: ignore[arg-type]


def _conclude(study: Study, network: Network, count: int) -> None:
    """Merge the layers' rows and add the product bound."""
    table = pa.concat_tables([study.store.read_shard(part(position)) for position in range(count)])
    known = dict(zip((layer.node for layer in network.layers), table["upper_padded"].to_pylist(), strict=True))
    bounds = product_bounds(network, known)
    products = [bounds[layer.node] for layer in network.layers]
    spectra = np.stack(table["spectrum"].to_pylist())
    quantile = (np.arange(spectra.shape[1]) + 0.5) / spectra.shape[1]
    positions, quantiles = np.repeat(np.arange(count), len(quantile)), np.tile(quantile, count)
    columns = {"position": positions, "quantile": quantiles, "value": spectra.ravel()}
    study.store.write_table(SPECTRA, pa.table(columns))
    rows = table.drop_columns(["spectrum"]).append_column("product_bound", pa.array(products, pa.float64()))
    study.store.write_table(LAYERS, rows)
    last = bounds[network.nodes[-1]]
    study.manifest["product_bound"] = last if math.isfinite(last) else None
    study.finish(host_count())
