"""Checks of the arguments that all attacks share, before any work."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec

import torch
from torch import Tensor

from advlab.attacks.criterion import Criterion
from advlab.attacks.model import COARSE, Classifier
from advlab.attacks.result import Adversarial, judge
from advlab.attacks.targets import POLICIES
from advlab.errors import UserError

Arguments = ParamSpec("Arguments")


def checked(attack: Callable[Arguments, Adversarial]) -> Callable[Arguments, Adversarial]:
    """Let an attack rely on its arguments ``model, images, labels, target, bounds, index``, and on ``references``.

    It gets a `Classifier` for the model; images in float32 or float64, without gradients, at least one; labels and
    targets as int64 on their device; bounds as two floats that the type of the images can hold. It may be called in
    `torch.inference_mode`, from which it takes copies. `judge` returns the images in the type in which they were given.

    Raises:
        UserError: arguments that cannot be converted so, in one sentence.
    """
    signature = inspect.signature(attack)

    @functools.wraps(attack)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Adversarial:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        with torch.inference_mode(False):
            images, labels = _images(given["images"]), _classes(given["labels"], "labels", given["images"])
            given["bounds"] = _bounds(given["bounds"], images)
            _require_within(images, given["bounds"])
            given["target"] = _target(given["target"], images)
            if given.get("references") is not None:
                given["references"] = _references(given["references"], images, given["bounds"])
            if given["index"] is not None:
                given["index"] = _classes(given["index"], "index", images)
            if not len(images):  # the model is not called
                return judge(given["model"], images, images.clone(), Criterion(labels), torch.zeros_like(labels))
            model = given["model"] = Classifier(given["model"], images)
            if int(labels.max()) >= model.num_classes or int(labels.min()) < 0:
                raise UserError(
                    f"labels span {int(labels.min())}..{int(labels.max())}, but the model has {model.num_classes} "
                    f"classes; give labels within 0..{model.num_classes - 1}."
                )
            given["images"], given["labels"] = images.float() if images.dtype in COARSE else images, labels
            return attack(*bound.args, **bound.kwargs)

    return run


def _references(references: Any, images: Tensor, bounds: tuple[float, float]) -> Tensor:
    references = _images(references, "references")
    if references.shape[1:] != images.shape[1:]:
        raise UserError(
            f"references have shape {tuple(references.shape)}; give images like those attacked: "
            f"(R, {', '.join(map(str, images.shape[1:]))})."
        )
    _require_within(references, bounds, "references")
    return references


def _images(images: Any, name: str = "images") -> Tensor:
    """The images, without gradients."""
    if not isinstance(images, Tensor):
        raise UserError(f"{name} are a {type(images).__name__}; give a tensor [B, C, H, W] or [B, n].")
    shape = tuple(images.shape)
    if images.ndim < 2 or 0 in shape[1:]:
        raise UserError(f"{name} have shape {shape}; give [B, C, H, W] or [B, n], with pixels.")
    if not images.is_floating_point() or images.element_size() < 2:
        raise UserError(f"{name} are {images.dtype}; give floating-point ones, e.g. {name}.float() / 255.")
    images = images.clone() if images.is_inference() else images.detach()
    rows = images[:0]
    if not bool(images.sum().isfinite()):  # twenty times faster than to check every pixel
        rows = (~images.flatten(1).isfinite().all(1)).nonzero().squeeze(1)
    if len(rows):
        raise UserError(
            f"{name} hold NaN or infinite pixels ({len(rows)} of {len(images)}, the first is {name}[{int(rows[0])}]); "
            "repair them or leave them out."
        )
    return images


def _classes(classes: Any, name: str, images: Tensor) -> Tensor:
    """One int64 per image, on the images' device."""
    if not isinstance(classes, Tensor):
        raise UserError(f"{name} is a {type(classes).__name__}; give a tensor of one integer per image.")
    if classes.shape != (len(images),):
        raise UserError(f"{name} has shape {tuple(classes.shape)}; give one class per image: ({len(images)},).")
    if classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool:
        raise UserError(f"{name} holds {classes.dtype}; give integers, e.g. {name}.long().")
    classes = classes.clone() if classes.is_inference() else classes
    return classes.to(images.device, torch.int64)


def _target(target: Any, images: Tensor) -> str | Tensor:
    if isinstance(target, Tensor):
        return _classes(target, "target", images)
    if isinstance(target, str) and target in POLICIES:
        return target
    raise UserError(
        f"unknown target {target!r}; give one of {', '.join(POLICIES)}, or a tensor with the class of each image."
    )


def _bounds(bounds: Any, images: Tensor) -> tuple[float, float]:
    """The box, in numbers that the type of the images holds."""
    try:
        low, high = (float(torch.as_tensor(float(bound), dtype=images.dtype)) for bound in bounds)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(
            f"bounds are {_short(bounds)}; give two numbers, lowest and highest intensity, and let the model do the "
            "normalising of each channel."
        ) from None
    if not low < high:
        raise UserError(f"bounds={(low, high)} leave no room; give the lowest intensity, then the highest.")
    return low, high


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return f"({', '.join(_short(item) for item in value)})"
    return repr(value)[:80]


def _require_within(images: Tensor, bounds: tuple[float, float], name: str = "images") -> None:
    """Raise a UserError when an image leaves the box: its distance from the box would count as distortion."""
    if not len(images):
        return
    lowest, highest = map(float, images.aminmax())
    if lowest < bounds[0] or highest > bounds[1]:
        raise UserError(
            f"{name} span {lowest:g}..{highest:g}, outside bounds={bounds}; scale them or pass their bounds."
        )
