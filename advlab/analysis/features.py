"""Features φ(x) of a layer, the responses of directions to images, and the images of largest response."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from advlab.errors import UserError

BATCH = 250
THUMBNAIL = 16
"""Height and width to which images are resized before their pixels are compared."""


@dataclass(frozen=True, slots=True)
class Top:
    """The images that stimulate each direction most, best first; ties go to the lower index. ``score`` is [D, k]
    float32 and ``index`` [D, k] int64; -inf and -1 where there were fewer than k images.
    """

    score: np.ndarray
    index: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray, index: np.ndarray, k: int) -> Self:
        """Of images' scores [N, D] and their positions [N]."""
        order = np.lexsort((np.broadcast_to(index[:, None], scores.shape).T, -scores.T), axis=1)[:, :k]
        best = cls(np.take_along_axis(scores.T, order, axis=1), index[order])
        lacking = max(0, k - len(index))
        padded = ((0, 0), (0, lacking))
        return cls(np.pad(best.score, padded, constant_values=-np.inf), np.pad(best.index, padded, constant_values=-1))

    def merge(self, other: "Top") -> "Top":
        """The best k of both; no image may be in both."""
        score, index = np.hstack([self.score, other.score]), np.hstack([self.index, other.index])
        order = np.lexsort((index, -score), axis=1)[:, : self.score.shape[1]]
        return Top(np.take_along_axis(score, order, axis=1), np.take_along_axis(index, order, axis=1))


class Features:
    """A ``model``, images [B, …] → logits [B, k], and the module of it whose output is used, by its name ``layer``:
    empty for the input of the last linear layer, the features that the classifier sees.

    Raises a UserError if the model has no such layer.
    """

    def __init__(self, model: nn.Module, layer: str, device: torch.device | str = "cpu") -> None:
        self.model, self.device = model.to(device).eval(), device
        modules = dict(model.named_modules())
        if layer:
            if layer not in modules:
                known = [name for name in modules if name]
                raise UserError(f"the model has no layer {layer!r}; choose among {', '.join(known[:40])}.")
            self.module, self.takes_input = modules[layer], False
        else:
            linear = [module for module in modules.values() if isinstance(module, nn.Linear)]
            if not linear:
                raise UserError("the model has no linear layer; name a `layer`.")
            self.module, self.takes_input = linear[-1], True

    @torch.no_grad()
    def batches(self, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Features [B, n, L] at L positions (1 where the layer is not spatial), and logits [B, k], batch by batch."""
        for part in images.split(BATCH):
            captured: list[Tensor] = []
            with self._capture_in(captured):
                logits = self.model(part.to(self.device))
            (features,) = captured
            if features.ndim < 2:
                raise UserError(f"the layer's output has {features.ndim} axes; choose one with features per image.")
            yield features.flatten(2) if features.ndim > 2 else features[:, :, None], logits

    def _capture_in(self, held: list[Tensor]) -> RemovableHandle:
        if self.takes_input:
            return self.module.register_forward_pre_hook(lambda _module, given: held.append(given[0]))
        return self.module.register_forward_hook(lambda _module, _given, output: held.append(output))


def stimulation(features_BnL: Tensor, directions_Dn: Tensor) -> Tensor:
    """max over positions of ⟨φ(x), v⟩, [B, D]: a unit of a spatial layer is a channel, wherever it responds most."""
    return torch.einsum("bnl,dn->bdl", features_BnL, directions_Dn).amax(2)


def thumbnails(images: Tensor) -> Tensor:
    """Grey images of 16 x 16 pixels, flattened to [B, 256], for comparing pixels."""
    grey = images.mean(1, keepdim=True)
    return torch.nn.functional.adaptive_avg_pool2d(grey, THUMBNAIL).flatten(1)
