"""A user's model as attacks need it: checked once on two images, then called for plain logits.

Shapes: B images, b of them in one call, k classes.
"""

import contextlib
import math
from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from advlab.errors import UserError, one_line

Model = Callable[[Tensor], Tensor]
"""Anything that maps images [B, ...] to logits [B, k]."""

COARSE = (torch.float16, torch.bfloat16)
"""Types that are too coarse to search in: such images are searched in float32, and the model sees them rounded."""
LOWEST = -1e30
"""Replaces a logit of −∞, so that a class's margin to a target is finite."""
_DIFFERENTIABLE = "attack a model that torch can differentiate"
PROBED = 2
"""Images that the check takes: with one, a model that drops dimensions of size one would pass unnoticed."""


class Classifier:
    """A model whose logits [b, k] of images [b, ...] have the type of the images.

    Attributes:
        dtype: of the images that the model gets.
        precision: the coarsest type that its logits go through, for example under autocast.
        num_classes: k.
    """

    def __init__(self, model: Model, images: Tensor, *, differentiable: bool = True) -> None:
        """Check the model on the first two of the images [B, ...], B > 0, in the type that they have here; it is left
        as it is.

        Raises a UserError for a model that fails on the images, returns something other than logits [B, k], is in train
        mode, or cannot be differentiated with respect to the images, if ``differentiable``.
        """
        self.model, self.dtype = model, images.dtype
        self._copies, self._masked, self._takes_gradients = True, False, False
        self.num_classes, self.precision = self._probe(images[:PROBED].detach(), differentiable)

    @classmethod
    def of(cls, model: Model, images: Tensor) -> "Classifier":
        """The model, checked unless it is already; it need not be differentiable."""
        return model if isinstance(model, Classifier) else cls(model, images, differentiable=False)

    def __call__(self, images: Tensor) -> Tensor:
        """Logits [b, k], differentiable where the images are."""
        given = images.to(self.dtype)
        if self._copies and given is images:
            given = images.clone()
        version = 0 if self._copies else given._version
        alone = self._takes_gradients and not torch.is_grad_enabled()
        try:
            logits = self._with_gradients(given) if alone else self.model(given)
        except Exception:
            if alone or torch.is_grad_enabled():
                raise
            logits = self._with_gradients(given)  # a model that takes gradients itself
            self._takes_gradients = True
        if not self._copies and given._version != version:
            raise UserError("the model writes into its images in some calls; let it work on images.clone().")
        _require_logits(logits, given, self.num_classes)
        logits = logits.to(images.dtype)
        return logits.clamp_min(LOWEST) if self._masked else logits

    def _with_gradients(self, given: Tensor) -> Tensor:
        with torch.enable_grad():
            return self.model(given.detach().requires_grad_()).detach()

    def _probe(self, images: Tensor, differentiable: bool) -> tuple[int, torch.dtype]:
        """The number of classes, and the coarsest type that the logits went through."""
        _require_eval_mode(self.model)
        leaf = images.clone().requires_grad_(differentiable)
        given = leaf.clone()
        version = 0 if given.is_inference() else given._version
        watch = _Watch()
        try:
            with torch.set_grad_enabled(differentiable), contextlib.nullcontext() if _is_opaque(self.model) else watch:
                logits = self.model(given)
        except Exception as error:
            watch.undo()
            if isinstance(error, UserError):
                raise
            raise UserError(self._failure(error, images, differentiable)) from error
        _require_logits(logits, given)
        written = given.is_inference() or given._version != version
        self._masked = bool(logits.isinf().any())
        self._copies = written or not torch.equal(given.detach(), leaf.detach())
        if differentiable:
            _require_gradient(logits, leaf)
        coarse = [dtype for dtype in (*watch.types, logits.dtype) if dtype.is_floating_point]
        return logits.shape[1], max(coarse, key=lambda dtype: torch.finfo(dtype).eps)

    def _failure(self, error: Exception, images: Tensor, differentiable: bool) -> str:
        reason = f"{type(error).__name__}: {one_line(error)[:300]}"
        with torch.no_grad(), contextlib.suppress(Exception):
            if differentiable:
                self.model(images.clone())
                return f"the model fails where images require gradients ({reason}); {_DIFFERENTIABLE}."
        shape = f"[{', '.join(map(str, images.shape))}]"
        return (
            f"the model fails on images of shape {shape}, {images.dtype} on {images.device} ({reason}); give images as "
            "the model expects them."
        )


def gradient(outputs: Tensor, leaf: Tensor, weights: Tensor | None = None, *, retain: bool = False) -> Tensor:
    """∂ Σ weights · outputs/∂ leaf [b, n], as autograd finds it; see `finite`. ``weights`` are as the outputs, None for
    ones; ``retain`` keeps the graph for another call.
    """
    (found,) = torch.autograd.grad(
        outputs, leaf, torch.ones_like(outputs) if weights is None else weights, retain_graph=retain, allow_unused=True
    )
    return torch.zeros_like(leaf) if found is None else found.contiguous()


def finite(gradients: Tensor) -> Tensor:
    """The gradients, zero where they are not finite: one pixel's square root spoils no other's derivative."""
    if gradients.is_cpu and math.isfinite(float(gradients.sum())):
        return gradients
    return gradients.nan_to_num(0, 0, 0)


def _require_logits(logits: Any, images: Tensor, num_classes: int = 0) -> None:
    """Raise a UserError unless these are logits [b, k] of the images; k is given once it is known."""
    if not isinstance(logits, Tensor):
        raise UserError(f"the model returned {_kind(logits)}; return the logits alone, a tensor [images, classes].")
    shape, count = logits.shape, images.shape[0]
    if len(shape) != 2 or shape[0] != count or (num_classes and shape[1] != num_classes):
        expected = f"[{count}, {num_classes or 'classes'}]"
        raise UserError(f"the model returned shape {tuple(shape)} for {count} images; return logits {expected}.")
    if not logits.is_floating_point():
        raise UserError(f"the model returned {logits.dtype}; return floating-point logits, not classes or counts.")
    if logits.device != images.device:
        raise UserError(
            f"the model returned logits on {logits.device} for images on {images.device}; use one device for both."
        )
    if shape[1] < 2:
        raise UserError(f"the model has {shape[1]} output class; an attack needs at least 2.")


def _kind(value: Any) -> str:
    """A description of what a model returned instead of logits."""
    name = type(value).__name__
    if isinstance(value, dict):
        return f"a {name} with {', '.join(map(repr, value))}"
    if isinstance(value, tuple | list):
        return f"a {name} of {len(value)}"
    return f"a {name}" + (" with .logits" if hasattr(value, "logits") else "")


def _require_gradient(logits: Tensor, leaf: Tensor) -> None:
    """Raise a UserError unless autograd leads from the logits to the leaf."""
    found = None
    if logits.requires_grad:
        try:
            (found,) = torch.autograd.grad(logits, leaf, torch.ones_like(logits), allow_unused=True)
        except Exception as error:
            reason = f"{type(error).__name__}: {one_line(error)[:300]}"
            raise UserError(f"the model cannot be differentiated ({reason}); {_DIFFERENTIABLE}.") from error
    if found is None:
        raise UserError(
            "the model's logits have no gradient with respect to the images: it runs under no_grad or inference_mode, "
            f"detaches them, answers by classes, or is constant; {_DIFFERENTIABLE}."
        )


def _require_eval_mode(model: Model) -> None:
    """Raise a UserError for compiled and scripted modules in train mode: `_Watch` does not see their operations."""
    if not _is_opaque(model):
        return
    for module in model.modules():
        name = getattr(module, "original_name", type(module).__name__)
        if module.training and any(part in name for part in ("BatchNorm", "Dropout", "DropPath", "StochasticDepth")):
            raise UserError(f"the model is in train mode (it has {name}); call model.eval() before the attack.")


def _is_opaque(model: Model) -> TypeGuard[nn.Module]:
    return isinstance(model, torch.jit.ScriptModule) or (isinstance(model, nn.Module) and hasattr(model, "_orig_mod"))


class _Watch(TorchFunctionMode):
    """Watches the operations of a forward pass: refuses those of train mode, and collects the types of the results.

    Attributes:
        types: of results that depend on the images.
    """

    def __init__(self) -> None:
        super().__init__()
        self.types: set[torch.dtype] = set()
        self._written: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called instead of each operation ``func``."""
        del types
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        _require_inference(name, args, kwargs)
        if name.endswith("_") and not name.startswith("_") and not args[0].requires_grad:
            self._written.append((args[0], args[0].clone()))
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and result.requires_grad:
            self.types.add(result.dtype)
        return result

    def undo(self) -> None:
        """Undo what was written in place, such as counters of batches."""
        with torch.no_grad():
            for tensor, before in reversed(self._written):
                tensor.copy_(before)


def _require_inference(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise a UserError for an operation whose result depends on chance, on other images, or on past calls."""
    training = kwargs.get("training")
    drops = args[10] if name == "multi_head_attention_forward" else kwargs.get("p", 1)
    if (training and drops and name in _RANDOM) or name == "bernoulli_" or kwargs.get("dropout_p"):
        what = "its logits are random (dropout is on)"
    elif training and name == "batch_norm":
        what = "its logits depend on the other images of the batch (batch norm uses the statistics of the batch)"
    elif name == "instance_norm" and kwargs.get("use_input_stats") and kwargs.get("running_mean") is not None:
        what = "it changes with every call (instance norm updates its running statistics)"
    else:
        return
    raise UserError(f"the model is in train mode: {what}; call model.eval() before the attack.")


_RANDOM = (
    *("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "rrelu"),
    "multi_head_attention_forward",
)
