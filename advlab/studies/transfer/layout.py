"""Files of a transfer study, relative to its folder, and their content addresses."""

from collections.abc import Iterable, Mapping
from typing import Any

from advlab.data import Dataset
from advlab.store import address
from advlab.store.layout import partition
from advlab.transfer import controls

MATRIX = "matrix.parquet"


def examples_folder(source: str) -> str:
    return f"examples/source={partition(source)}"


def examples_part(source: str, start: int) -> str:
    """The examples of the shard that begins at row ``start`` of the study's images."""
    return f"{examples_folder(source)}/part-{start:08d}.parquet"


def predictions_folder(source: str, target: str) -> str:
    return f"predictions/source={partition(source)}/target={partition(target)}"


def predictions_part(source: str, target: str, start: int) -> str:
    return f"{predictions_folder(source, target)}/part-{start:08d}.parquet"


class Addresses:
    """The content addresses of a transfer study, by source, target and start of a shard.

    They follow from the study's manifest, the models' fingerprints and the images it distorts.
    """

    def __init__(self, manifest: Mapping[str, Any], fingerprints: Mapping[str, str], dataset: Dataset) -> None:
        self._config, self._attack = manifest["config"], manifest["attack"]
        self._fingerprints, self._dataset = fingerprints, dataset
        self._contents: dict[int, str] = {}

    def examples(self, source: str, start: int) -> str:
        """The address of the examples of an attacked model in the shard that begins at row ``start``."""
        config = self._config
        decisive = self._attack, config["attack"], config["target"], config["seed"]
        return address("attack", self._fingerprints[source], self._content(start), *decisive)

    def predictions(self, source: str, target: str, start: int) -> str:
        """The address of a target's predictions for one shard of a source, a model or a control."""
        attacked = source if source in self._fingerprints else controls.attacked_model(source)
        origin = self.examples(attacked, start) if attacked else self._content(start)
        return address("evaluate", source, self._config["seed"], origin, self._fingerprints[target])

    def prediction_files(self, source: str, target: str, starts: Iterable[int]) -> dict[str, str]:
        """The files of a target's predictions for a source, and the address that each must have."""
        return {predictions_part(source, target, start): self.predictions(source, target, start) for start in starts}

    def _content(self, start: int) -> str:
        if start not in self._contents:
            shard = slice(start, start + self._config["shard_size"])
            self._contents[start] = self._dataset.subset(shard).fingerprint
        return self._contents[start]
