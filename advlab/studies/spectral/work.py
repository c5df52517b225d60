"""The units of work of a spectral study: attack the images once, then measure every layer."""

from dataclasses import dataclass, fields

import pyarrow as pa
import torch
from torch import nn

from advlab.analysis.layer_graph import Network
from advlab.analysis.layer_row import LayerRow, measure_layer
from advlab.attacks import minimum_norm
from advlab.engine.worker import Resources
from advlab.store import Store
from advlab.store.schema import SHAPE_KEY, image_column

PAIRS = "pairs.parquet"


@dataclass(frozen=True, slots=True)
class PairsUnit:
    """Attack the images: find the nearest misclassified image of each."""

    store: str
    key: str

    name = kind = "attack the images"

    def run(self, resources: Resources) -> None:
        model: nn.Module = resources.get("model").to(resources.device)
        images = torch.tensor(resources.input).to(resources.device)
        with torch.no_grad():
            labels = model(images).argmax(1)  # the model's own predictions, so that every image counts
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
    return f"layers/part-{position:08d}.parquet"
