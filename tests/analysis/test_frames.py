"""Frame bounds against explicit singular value decompositions."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings, strategies
from random_layers import convolutions, dense_on_torus
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

from advlab.analysis import extreme_singular_values as ends
from advlab.analysis import frame_bounds, singular_spectrum
from advlab.analysis.frames import FrameBounds, torus
from advlab.analysis.paper_formula import printed_extremes
from advlab.errors import UserError
from advlab.models import alexnet

Dense = Callable[[nn.Module, tuple[int, ...]], Tensor]
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def close(value: float, expected: float, largest: float) -> bool:
    """1e-9 relative; below rounding error of the largest singular value there is nothing to compare."""
    return math.isclose(value, expected, rel_tol=1e-9, abs_tol=1e-13 * largest)


@SETTINGS
@given(convolutions())
def test_circular_bounds_are_those_of_the_explicit_matrix(drawn: tuple[Any, tuple[int, ...]]) -> None:
    layer, size = drawn
    matrix = dense_on_torus(layer, size)
    assume(min(matrix.shape) <= 1200)
    values = torch.linalg.svdvals(matrix)
    bounds = frame_bounds(layer, size)
    assert close(bounds.upper, float(values[0]), float(values[0]))
    assert close(bounds.lower, float(values[-1]), float(values[0]))
    assert close(frame_bounds(layer, size, upper_only=True).upper, float(values[0]), float(values[0]))
    assert bounds.injective == (matrix.shape[0] >= matrix.shape[1])


@settings(SETTINGS, max_examples=20)
@given(convolutions())
def test_the_spectrum_is_that_of_the_explicit_matrix(drawn: tuple[Any, tuple[int, ...]]) -> None:
    layer, size = drawn
    matrix = dense_on_torus(layer, size)
    assume(min(matrix.shape) <= 600)
    values, counts = singular_spectrum(layer, size)
    expected = torch.linalg.svdvals(matrix).numpy()
    np.testing.assert_allclose(np.repeat(values, counts)[::-1], expected, rtol=0, atol=1e-7 * expected[0])


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@settings(SETTINGS, max_examples=40)
@given(convolutions(), strategies.integers(0, 3), strategies.booleans())
def test_no_padding_violates_its_bound(mode: str, dense_of: Dense, drawn: Any, pad: int, same: bool) -> None:
    layer, size = drawn
    same = same and set(layer.stride) == {1}
    limit = {"reflect": min(size) - 1, "circular": min(size)}.get(mode, pad)
    padding: Any = "same" if same else (min(pad, limit),) * len(size)
    reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    around = [-(-r // 2) for r in reach] if same else list(padding)
    assume(all(pad <= limit for pad in around) or mode not in ("reflect", "circular"))
    assume(all(n + (r if same else 2 * p) > r for n, r, p in zip(size, reach, around, strict=True)))
    padded = type(layer)(
        layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, padding, layer.dilation,
        layer.groups, bias=False, padding_mode=mode, dtype=torch.float64,
    )  # fmt: skip
    padded.weight = layer.weight
    norm = float(torch.linalg.matrix_norm(dense_of(padded, (layer.in_channels, *size)), 2))
    bound = frame_bounds(padded, size, padding="layer").upper
    assert norm <= bound * (1 + 1e-12)
    if mode == "zeros":
        assert frame_bounds(padded, size, padding="zeros").upper == bound


def test_circular_padding_that_fits_is_exact(dense_of: Dense) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3, stride=2, padding=1, padding_mode="circular", dtype=torch.float64, bias=False)
    values = torch.linalg.svdvals(dense_of(layer, (3, 8, 6)))
    bounds = frame_bounds(layer, (8, 6))
    assert bounds.upper == pytest.approx(float(values[0]), rel=1e-12)
    assert bounds.lower == pytest.approx(float(values[-1]), rel=1e-12)
    assert frame_bounds(layer, (8, 6), padding="layer").upper == pytest.approx(bounds.upper, rel=1e-12)


@pytest.mark.parametrize("shape", [(30, 50), (50, 30), (40, 40), (1, 7)])
def test_linear_layers(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(*shape, dtype=torch.float64)
    values = torch.linalg.svdvals(layer.weight.detach())
    bounds = frame_bounds(layer)
    assert bounds.upper == pytest.approx(float(values[0]), rel=1e-12)
    assert bounds.lower == pytest.approx(float(values[-1]), rel=1e-9)
    assert frame_bounds(layer, upper_only=True) == FrameBounds(0.0, bounds.upper, bounds.injective)
    assert bounds.injective == (shape[1] >= shape[0])


@SETTINGS
@given(convolutions())
def test_lanczos_finds_what_diagonalising_finds(drawn: tuple[Any, tuple[int, ...]]) -> None:
    layer, size = drawn
    direct = frame_bounds(layer, size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ends, "DIRECT", 2)
        lanczos = frame_bounds(layer, size)
        upper = frame_bounds(layer, size, upper_only=True).upper
    assert close(upper, direct.upper, direct.upper)
    assert close(lanczos.upper, direct.upper, direct.upper)
    assert close(lanczos.lower, direct.lower, direct.upper)


@settings(SETTINGS, max_examples=30)
@given(convolutions())
def test_large_layers_are_taken_piece_by_piece(drawn: tuple[Any, tuple[int, ...]]) -> None:
    layer, size = drawn
    with torch.no_grad():
        layer.weight[:, -1] *= 1e-6  # nearly singular, so that the smallest value is sought twice
    whole = frame_bounds(layer, size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ends, "CHUNK", 64)
        pieces = frame_bounds(layer, size)
    assert close(pieces.upper, whole.upper, whole.upper)
    assert close(pieces.lower, whole.lower, whole.upper)


def test_nearly_singular_layers_keep_their_accuracy() -> None:
    """The root of a Gram matrix's eigenvalue would be off in the third digit here."""
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.linalg.qr(torch.randn(20, 20, dtype=torch.float64, generator=generator)).Q for _ in range(2))
    layer = nn.Conv2d(20, 20, 1, dtype=torch.float64)
    with torch.no_grad():
        layer.weight[..., 0, 0] = left @ torch.logspace(-7, 1, 20, dtype=torch.float64).diag() @ right
    assert frame_bounds(layer, 5).lower == pytest.approx(1e-7, rel=1e-7)
    assert frame_bounds(layer, 5).upper == pytest.approx(10, rel=1e-12)


def test_dead_layers_have_bounds_zero() -> None:
    layer = nn.Conv2d(3, 3, 3)
    nn.init.zeros_(layer.weight)
    bounds = frame_bounds(layer, 8)
    assert (bounds.lower, bounds.upper) == (0.0, 0.0)


def test_alexnets_first_layer_rounds_up_to_its_stride() -> None:
    """224 + 2·2 is the torus that DESIGN names, 228: the next multiple of 4 after the padding."""
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 64, 11, stride=4, padding=2)
    zeros = frame_bounds(layer, 224, padding="zeros").upper
    assert zeros == frame_bounds(layer, 228, upper_only=True).upper


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_the_printed_formula_with_proper_aliases_is_the_stride_times_the_norm(stride: int) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 8, 5, stride=stride, dtype=torch.float64)
    size = (12 * stride, 12 * stride)
    exact = frame_bounds(layer, size)
    arguments = layer.weight, layer.stride, layer.dilation, layer.groups, size
    lower, upper = printed_extremes(*arguments, aliases_apart=2 * math.pi)
    assert upper == pytest.approx(stride * exact.upper, rel=1e-12)
    if exact.injective:
        assert lower == pytest.approx(stride * exact.lower, rel=1e-9)
    printed = frame_bounds(layer, size, paper_literal=True)
    if stride == 1:
        assert printed.upper == pytest.approx(exact.upper, rel=1e-12)
    else:
        assert printed.upper > 1.5 * exact.upper


@pytest.mark.parametrize(
    ("layer", "options", "told"),
    [
        (nn.ReLU(), {}, "a ReLU has no frame bounds"),
        (nn.Conv2d(1, 1, 3), {}, "input_size=None"),
        (nn.Conv2d(1, 1, 3), {"input_size": (0, 4)}, r"\(0, 4\)"),
        (nn.Conv1d(1, 1, 3), {"input_size": (4, 4)}, r"give 1 positive integer, such as \(224\)"),
        (nn.Conv2d(1, 1, 3), {"input_size": 4, "padding": "reflect"}, "'reflect' is unknown"),
        (nn.Conv2d(1, 1, 3), {"input_size": 4, "padding": "zeros", "paper_literal": True}, "leave it circular"),
    ],
)
def test_mistakes_are_reported(layer: nn.Module, options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        frame_bounds(layer, **options)


def test_weights_that_are_not_finite_are_refused() -> None:
    layer = nn.Linear(2, 2)
    nn.init.constant_(layer.weight, float("nan"))
    with pytest.raises(UserError, match="not all finite"):
        frame_bounds(layer)


def _loaded(wrap: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """A layer whose state came from another: hooks renew its weight when it runs."""
    source, layer = (wrap(nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular")) for _ in range(2))
    with torch.no_grad():
        source.weight_orig.mul_(3)  # type: ignore[operator]
    layer.load_state_dict(source.state_dict())
    return layer


class Equal(nn.Linear):
    """A forward pass of its own that does what its class does."""

    def forward(self, images: Tensor) -> Tensor:
        return images @ self.weight.T + self.bias


class Standardised(nn.Conv2d):
    """As BiT and timm have it."""

    def forward(self, images: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return functional.conv2d(images, weight / weight.std((1, 2, 3), keepdim=True), self.bias)


class Broken(nn.Linear):
    def forward(self, images: Tensor) -> Tensor:
        raise RuntimeError(f"out of order for {len(images)} images")


class Padded(nn.Conv2d):
    def _conv_forward(self, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(2 * images, weight, bias)


def _hooked(kind: str, hook: Callable[..., Any]) -> nn.Module:
    layer = nn.Linear(5, 4)
    getattr(layer, kind)(hook)
    return layer


def _patched() -> nn.Module:
    layer = nn.Linear(5, 4)
    vars(layer)["forward"] = lambda images: 2 * nn.Linear.forward(layer, images)
    return layer


def _frozen_conv() -> nn.Module:
    return nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular")


@pytest.mark.filterwarnings("ignore:.*is deprecated")
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda: _loaded(lambda layer: prune.l1_unstructured(layer, "weight", 0.5)),
        lambda: _loaded(nn.utils.spectral_norm),
        lambda: nn.utils.weight_norm(_frozen_conv()),
        lambda: parametrizations.spectral_norm(_frozen_conv()),
        lambda: parametrizations.weight_norm(_frozen_conv()),
        lambda: parametrizations.orthogonal(nn.Linear(6, 4)),
        lambda: parametrizations.spectral_norm(nn.Linear(6, 4)),
        lambda: Equal(6, 4),
        lambda: _hooked("register_forward_hook", lambda _module, _inputs, _output: None),
        lambda: nn.Linear(6, 4, dtype=torch.bfloat16), lambda: nn.Linear(6, 4, dtype=torch.float16),
    ],
)  # fmt: skip
def test_the_bounds_are_of_what_the_next_pass_computes_and_nothing_moves(
    make: Callable[[], nn.Module], training: bool, dense_of: Dense
) -> None:
    torch.manual_seed(0)
    layer = make().train(training)
    before = copy.deepcopy(layer.state_dict())
    bounds = frame_bounds(layer, 6)
    values, _ = singular_spectrum(layer, 6)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    copied = copy.deepcopy(layer).to(torch.float64)
    shape = (2, 6, 6) if isinstance(layer, nn.Conv2d) else (layer.in_features,)
    offset = copy.deepcopy(copied)(torch.zeros(1, *shape, dtype=torch.float64)).detach().flatten()
    norm = float(torch.linalg.matrix_norm(dense_of(copied, shape) - offset[:, None], 2))  # type: ignore[arg-type]
    assert bounds.upper == pytest.approx(norm, rel=1e-5)
    assert float(values.max()) == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Standardised(2, 3, 3), "the Standardised has hooks or a forward pass of its own"),
        (lambda: Broken(2, 3), r"the Broken has hooks or a forward pass of its own.*\(out of order"),
        (lambda: Padded(2, 3, 3), "the Padded has hooks or a forward pass of its own"),
        (lambda: _hooked("register_forward_hook", lambda _module, _inputs, output: 2 * output), "the Linear has hooks"),
        (lambda: _hooked("register_forward_pre_hook", lambda _module, inputs: 2 * inputs[0]), "the Linear has hooks"),
        (_patched, "the Linear has hooks or a forward pass of its own"),
        (lambda: nn.Linear(3, 2, dtype=torch.complex64), "weights are of type torch.complex64"),
        (lambda: nn.LazyLinear(3), "the LazyLinear has no weights yet; load them, or show it an image first"),
        (lambda: nn.LazyConv2d(3, 3), "the LazyConv2d has no weights yet"),
        (lambda: nn.Linear(3, 2, device="meta"), "the Linear has no weights yet"),
        (lambda: nn.Linear(0, 2), "weights are empty"),
        (lambda: nn.ConvTranspose2d(2, 3, 3), "a ConvTranspose2d has no frame bounds"),
        (lambda: nn.Bilinear(2, 3, 3), "a Bilinear has no frame bounds"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules are", "ignore:Initializing zero-element")
def test_layers_that_do_something_else_are_refused(make: Callable[[], nn.Module], told: str) -> None:
    for of in (frame_bounds, singular_spectrum):
        with pytest.raises(UserError, match=told):
            of(make(), 8)


@pytest.mark.filterwarnings("ignore:Sparse")
def test_sparse_weights_are_refused() -> None:
    layer = nn.Linear(3, 2)
    layer.weight = nn.Parameter(layer.weight.detach().to_sparse_csr())
    with pytest.raises(UserError, match=r"layout torch.sparse_csr; make them real and dense"):
        frame_bounds(layer)


@pytest.mark.parametrize("exponent", [-1070, -900, -30, 30, 900, 1015])
@pytest.mark.parametrize("make", [lambda: nn.Conv2d(3, 4, 3, stride=2), lambda: nn.Linear(5, 7)])
def test_bounds_scale_with_their_weights(make: Callable[[], nn.Module], exponent: int) -> None:
    """Squares of these are 0, or beyond all numbers."""
    torch.manual_seed(0)
    layer: Any = make().double()
    with torch.no_grad():
        layer.weight.copy_((layer.weight * 2**8).round() / 2**4)  # few digits: none is lost among tiny numbers
    usual, printed = frame_bounds(layer, 8), frame_bounds(layer, 8, paper_literal=True)
    with torch.no_grad():
        layer.weight.mul_(2.0**exponent)
    scaled = frame_bounds(layer, 8)
    assert scaled.upper == usual.upper * 2.0**exponent
    assert scaled.lower == usual.lower * 2.0**exponent
    assert frame_bounds(layer, 8, paper_literal=True).upper == printed.upper * 2.0**exponent
    assert singular_spectrum(layer, 8)[0].max() == pytest.approx(usual.upper * 2.0**exponent, rel=1e-7)


@pytest.mark.parametrize(
    "size", [np.int64(8), (np.int64(8), np.int32(8)), np.array([8, 8]), torch.Size([8, 8]), [8, 8]]
)
def test_sizes_may_be_any_whole_numbers(size: Any) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3)
    assert frame_bounds(layer, size) == frame_bounds(layer, 8)


@pytest.mark.parametrize("size", [8.0, (8.0, 8.0), "8", np.float64(8), np.array([8, 8, 8]), {}, -8, (8, 0), 10**9])
def test_other_sizes_are_refused(size: Any) -> None:
    with pytest.raises(UserError, match=r"input_size=.* (does not fit a Conv2d: give 2 positive|has more than)"):
        frame_bounds(nn.Conv2d(3, 4, 3), size)


@pytest.mark.slow
def test_table_5s_convolutions_have_the_bounds_of_an_svd_per_frequency() -> None:
    """AlexNet's own sizes: hundreds of blocks, most of them struck out without being decomposed."""
    sizes = (227, 27, 13, 13, 13)
    layers = [module for module in alexnet.random().double() if isinstance(module, nn.Conv2d)]
    for layer, size in zip(layers, sizes, strict=True):
        symbol = torus(layer, (size, size))
        values = torch.linalg.svdvals(symbol.blocks(symbol.frequencies[0]))
        bounds = frame_bounds(layer, size)
        assert close(bounds.upper, float(values.max()), float(values.max()))
        assert close(bounds.lower, float(values.min()), float(values.max()))
        assert close(frame_bounds(layer, size, upper_only=True).upper, float(values.max()), float(values.max()))
