"""The target side: predictions of a model for distorted images."""

from dataclasses import dataclass

import numpy as np
import torch

from advlab.attacks.model import Model
from advlab.errors import UserError


@dataclass(frozen=True, slots=True)
class Answers:
    """A model's predictions as columns: the class with the largest logit ([N] int64), and the margin, logit of the
    label minus the largest other logit ([N] float32).
    """

    prediction: np.ndarray
    margin: np.ndarray


@torch.inference_mode()
def answer(
    model: Model, images: np.ndarray, labels: np.ndarray, *, device: torch.device, batch_size: int = 1000
) -> Answers:
    """Classify images [N, C, H, W] float32 with true classes ``labels`` [N] int64, in batches. Raises a UserError if
    the model returns NaN, which would count as a misclassification.
    """
    predictions, margins = [], []
    for start in range(0, len(images), batch_size):
        rows = slice(start, start + batch_size)
        logits = model(torch.tensor(images[rows], device=device))
        label = torch.tensor(labels[rows], device=device)[:, None]
        others = logits.scatter(1, label, -torch.inf).amax(1)
        predictions.append(logits.argmax(1))
        margins.append(logits.gather(1, label).squeeze(1) - others)
    found = Answers(torch.cat(predictions).cpu().numpy(), torch.cat(margins).float().cpu().numpy())
    if count := int(np.isnan(found.margin).sum()):
        raise UserError(f"it returns NaN for {count} of {len(images)} images, which is not a classification; fix it.")
    return found
