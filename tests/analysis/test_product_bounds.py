"""Bounds of what a forward pass may do beside layers: never below a Jacobian, and finite where one is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from advlab.analysis.layer_graph import Network
from advlab.analysis.lipschitz import product_bounds
from advlab.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated", "ignore:Initializing zero-element")
SHAPE = (2, 6, 6)


class Of(nn.Module):
    """A forward pass made of a function of this module and an image."""

    def __init__(self, function: Callable[[Any, Tensor], Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part, part.is_floating_point()) if isinstance(part, Tensor) else part)

    def forward(self, images: Tensor) -> Any:
        return self.function(self, images)


def conv(outputs: int = 2, **options: Any) -> nn.Conv2d:
    torch.manual_seed(outputs)
    return nn.Conv2d(2, outputs, 3, padding=1, **options)


def bound_of(model: nn.Module) -> float:
    """In a container, as a trace looks into a module that stands alone."""
    network = Network(
        model if isinstance(model, Of | nn.Sequential) else nn.Sequential(model).train(model.training), SHAPE
    )
    bounds = product_bounds(network)
    assert not any(math.isnan(bound) for bound in bounds.values())
    return bounds[network.nodes[-1]]


def jacobian_norm(model: nn.Module) -> float:
    """The largest norm of a Jacobian at images of several sizes, also where activations are steepest."""
    generator = torch.Generator().manual_seed(0)
    numbers = math.prod(SHAPE)
    points = [
        torch.ones(numbers),
        torch.linspace(-3, 3, numbers),
        torch.linspace(1.4, 1.42, numbers),
        -torch.ones(numbers) / 9,
    ]
    points += [scale * torch.randn(numbers, generator=generator) for scale in (0.1, 1.0, 1.0, 5.0)]
    model = model.double()

    def flat(image: Tensor) -> Tensor:
        found = model(image.view(1, *SHAPE).clone())  # whatever it does in place
        return torch.cat([part.flatten() for part in (found if isinstance(found, tuple | list) else [found])])

    jacobians = [torch.autograd.functional.jacobian(flat, point.double()) for point in points]
    return max(float(torch.linalg.matrix_norm(jacobian, 2)) for jacobian in jacobians)


Case = tuple[str, nn.Module]

TIGHT: list[Case] = [
    ("x + mean", Of(lambda _, x: x + x.mean((2, 3), keepdim=True))),
    ("mean + x", Of(lambda _, x: x.mean((2, 3), keepdim=True) + x)),
    ("x + mean of all", Of(lambda _, x: x + x.mean())),
    ("x - sum", Of(lambda _, x: x.sum((1, 2, 3), keepdim=True) + x)),
    ("context", Of(lambda s, x: x + s.p(x), p=nn.AdaptiveAvgPool2d(1))),
    ("mean * map", Of(lambda s, x: x.mean((2, 3), keepdim=True) * s.w, w=torch.ones(2, 6, 6))),
    ("map * mean", Of(lambda s, x: s.w * x.mean((2, 3), keepdim=True), w=torch.ones(2, 6, 6))),
    ("mean / map", Of(lambda s, x: x.mean((2, 3), keepdim=True) / s.w, w=torch.full((2, 6, 6), -0.5))),
    ("add alpha", Of(lambda _, x: torch.add(x, x, alpha=3))),
    ("sub alpha", Of(lambda _, x: torch.sub(x, -x, alpha=-2.5 * -1))),
    ("method alpha", Of(lambda _, x: x.add(x, alpha=3))),
    ("in place alpha", Of(lambda _, x: (x * 1).add_(x, alpha=3))),
    ("repeated", Of(lambda _, x: x[:, [0, 0, 0]])),
    ("permuted", Of(lambda _, x: x[:, [1, 0]])),
    ("negative index", Of(lambda _, x: x[:, [-1, 1]])),
    ("rows", Of(lambda _, x: x[..., [0, 1, 1, 1, 1]])),
    ("slice", Of(lambda _, x: x[:, :1, ::2])),
    ("new axis", Of(lambda _, x: x[:, None])),
    ("index tensor", Of(lambda s, x: x[:, s.i], i=torch.tensor([1, 1, 1, 0]))),
    ("expand", Of(lambda _, x: x[:, :1].expand(-1, 5, -1, -1))),
    ("repeat", Of(lambda _, x: x.repeat(1, 3, 1, 2))),
    ("tile", Of(lambda _, x: torch.tile(x, (1, 2, 1, 1)))),
    ("repeat interleave", Of(lambda _, x: x.repeat_interleave(3, dim=1))),
    ("sum", Of(lambda _, x: x.sum((1, 2, 3)))),
    ("mean", Of(lambda _, x: torch.mean(x, dim=(2, 3)))),
    ("chunks", Of(lambda _, x: torch.cat(x.chunk(2, 1), 2))),
    ("part of chunks", Of(lambda _, x: x.chunk(2, 1)[1])),
    ("view", Of(lambda _, x: x.view(x.size(0), -1))),
    ("shape", Of(lambda _, x: x.reshape(x.shape[0], x.shape[1] * x.shape[2], -1))),
    ("flip", Of(lambda _, x: x.flip(3).roll(2, 2))),
    ("pad circular", Of(lambda _, x: functional.pad(x, (2, 2, 2, 2), mode="circular"))),
    ("pad reflect", Of(lambda _, x: functional.pad(x, (3, 0, 0, 0), mode="reflect"))),
    ("pad replicate", Of(lambda _, x: functional.pad(x, (0, 0, 4, 0), mode="replicate"))),
    ("pad constant", Of(lambda _, x: functional.pad(x, (1, 2), value=7.0))),
    ("crop", Of(lambda _, x: functional.pad(x, (-1, -2)))),
    ("nearest", Of(lambda _, x: functional.interpolate(x, scale_factor=2))),
    ("bilinear", nn.Upsample(scale_factor=2, mode="bilinear")),
    ("Upsample", nn.Upsample(size=(9, 7))),
    ("ReflectionPad2d", nn.ReflectionPad2d(2)), ("ReplicationPad2d", nn.ReplicationPad2d((0, 3, 1, 0))),
    ("CircularPad2d", nn.CircularPad2d(3)), ("ConstantPad2d", nn.ConstantPad2d(1, 5.0)), ("ZeroPad2d", nn.ZeroPad2d(2)),
    ("PixelShuffle", Of(lambda _, x: functional.pixel_shuffle(x.repeat(1, 2, 1, 1), 2))),
    ("PixelUnshuffle", nn.PixelUnshuffle(2)), ("ChannelShuffle", nn.ChannelShuffle(2)),
    ("Unfold", nn.Unfold(3, padding=1)), ("Unflatten", nn.Unflatten(1, (2, 1))),
    ("AvgPool2d", Of(lambda _, x: functional.avg_pool2d(x, 3, 1, 1))),
    ("AvgPool", nn.AvgPool2d(3, 2, 1, ceil_mode=True)),
    ("excluded pad", nn.AvgPool2d(3, 2, 1, count_include_pad=False)), ("divisor", nn.AvgPool2d(2, divisor_override=1)),
    ("negative divisor", nn.AvgPool2d(2, divisor_override=-1)),
    ("stack", Of(lambda _, x: torch.stack([x, x, 2 * x]))),
    ("concatenated", Of(lambda _, x: torch.cat((x, x, -x), dim=1))),
    ("dropout", Of(lambda _, x: functional.dropout(x, 0.5))),
    ("dropout in evaluation", Of(lambda s, x: functional.dropout(x, 0.5, training=s.training))),
    ("dropout of none", Of(lambda _, x: functional.dropout(x, 0.0))),
    ("dropout in training", nn.Dropout(0.75).train()),
    ("several outputs", Of(lambda _, x: (x, x, 3 * x))),
    ("read, then in place", Of(lambda _, x: (lambda h: h + h.relu_())(2 * x))),
    ("leaky", nn.LeakyReLU(-3.0)), ("leaky function", Of(lambda _, x: functional.leaky_relu(x, 2.0))),
    ("PReLU", nn.PReLU(init=-4.0)), ("clamp", Of(lambda _, x: x.clamp(-1, 1))), ("abs", Of(lambda _, x: x.abs() * 2)),
    ("scaled by a made constant", Of(lambda s, x: x * s.g.view(1, 2, 1, 1).exp(), g=torch.tensor([1.0, -1.0]))),
    ("tokens", Of(lambda s, x: s.l(x.flatten(2).transpose(1, 2)), l=nn.Linear(2, 5, bias=False))),
    ("weight made in forward", Of(lambda s, x: functional.conv2d(x, s.w / s.w.norm()), w=torch.randn(3, 2, 1, 1))),
    ("attribute", Of(lambda _, x: x * 0.5 / 2 - 3)),
]  # fmt: skip
"""Here the bound is attained."""

FINITE: list[Case] = [
    ("chain", nn.Sequential(conv(4), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3))),
    ("norm", nn.Sequential(conv(4), nn.BatchNorm2d(4), nn.ReLU()).eval()),
    ("reused", Of(lambda s, x: s.c(s.c(x)) + s.c(x), c=conv())),
    ("strided", nn.Sequential(conv(4, stride=2, padding_mode="reflect"))),
    ("max pools", nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.MaxPool2d(2, ceil_mode=True))),
    ("max pool function", Of(lambda _, x: functional.max_pool2d(x, 3, stride=1, dilation=2))),
    ("indices", Of(lambda s, x: s.p(x)[0], p=nn.MaxPool2d(3, 2, return_indices=True))),
    ("adaptive", nn.Sequential(nn.AdaptiveMaxPool2d(4), nn.AdaptiveAvgPool2d(3))),
    ("GELU", nn.GELU()), ("GELU tanh", nn.GELU("tanh")), ("SiLU", nn.SiLU()), ("Mish", nn.Mish()), ("SELU", nn.SELU()),
    ("Hardswish", nn.Hardswish()), ("Hardsigmoid", nn.Hardsigmoid()), ("ELU", nn.ELU(-2.5)), ("CELU", nn.CELU(2.0)),
    ("Softplus", nn.Softplus(3.0)),
    ("RReLU", nn.RReLU(2.0, 3.0)),
    ("Sigmoid", nn.Sigmoid()),
    ("Softsign", nn.Softsign()),
    ("softmax", Of(lambda _, x: functional.softmax(5 * x, 1))), ("LogSigmoid", nn.LogSigmoid()),
    ("functions", Of(lambda _, x: functional.gelu(functional.silu(functional.elu(x, 2.0)), approximate="tanh"))),
    ("LRN", nn.LocalResponseNorm(2, alpha=3.0, k=1.0)),
    ("shared, then changed", Of(lambda s, x: (lambda h: (h.mul_(5), h)[1])(s.c(x)), c=conv())),
    ("by a function", Of(lambda s, x: (lambda h: (functional.elu(h, 3.0, inplace=True), h)[1])(s.c(x)), c=conv())),
    ("added in place", Of(lambda s, x: (lambda h: (h.add_(x), h)[1])(s.c(x)), c=conv())),
    ("changed behind a view", Of(lambda s, x: (lambda h: (h.flatten(1).mul_(7), h)[1])(s.c(x)), c=conv())),
    ("wide sum in place", Of(lambda s, x: s.c(x).add_(x.mean((2, 3), keepdim=True)), c=conv())),
    ("zero branch", Of(lambda _, x: x + functional.relu(0 * x))),
]  # fmt: skip

UNBOUNDED: list[Case] = [
    ("gate", Of(lambda _, x: x * torch.sigmoid(x))), ("squeeze", Of(lambda _, x: x * x.mean((2, 3), keepdim=True))),
    ("norm", nn.LayerNorm([2, 6, 6])), ("groups", nn.GroupNorm(1, 2)), ("instances", nn.InstanceNorm2d(2)),
    ("batch norm in training", nn.BatchNorm2d(2).train()),
    ("batch norm without statistics", nn.BatchNorm2d(2, track_running_stats=False).eval()),
    ("attention", Of(lambda s, x: s.a(*[x.flatten(2)] * 3)[0], a=nn.MultiheadAttention(36, 1))),
    ("attention to a constant", Of(lambda s, x: s.a(s.q, *[x.flatten(2)] * 2)[0],
                                   a=nn.MultiheadAttention(36, 1), q=torch.randn(3, 2, 36))),
    ("matmul", Of(lambda _, x: x @ x.transpose(2, 3))), ("norm of x", Of(lambda _, x: x / (1e-3 + x.norm()))),
    ("division by 0", Of(lambda s, x: x / s.w, w=torch.zeros(2, 6, 6))), ("inverse", Of(lambda _, x: 1 / x)),
    ("a part in place", Of(lambda s, x: (lambda h: (h[:, :1].mul_(7), h)[1])(s.c(x)), c=conv())),
    ("bicubic", nn.Upsample(scale_factor=2, mode="bicubic")), ("hard", nn.Hardshrink()), ("GLU", nn.GLU(1)),
    ("bicubic function", Of(lambda _, x: functional.interpolate(x, scale_factor=2, mode="bicubic"))),
    ("class", Of(lambda _, x: x + x.argmax(1, keepdim=True))), ("mask", Of(lambda _, x: x * (x > 0))),
    ("sign", Of(lambda _, x: x.sign())), ("rounded", Of(lambda _, x: torch.div(x, 0.01, rounding_mode="floor"))),
    ("to integers", Of(lambda _, x: x.to(torch.int64).to(torch.float32))),
    ("a number", Of(lambda _, x: x + x.sum().item())),
    ("square", Of(lambda _, x: x**2)),
    ("exp", Of(lambda _, x: x.exp())),
    ("where", Of(lambda _, x: torch.where(x > 0, x, -9 * x))),
    ("bias of x", Of(lambda s, x: functional.linear(x, s.w, x.mean((0, 1, 2))), w=torch.randn(6, 6))),
    ("kernel of x", Of(lambda s, x: functional.conv2d(s.w, x), w=torch.randn(1, 2, 6, 6))),
    ("index of x", Of(lambda s, x: s.w[x.argmax(1)], w=torch.randn(9))),
    ("keyword", Of(lambda s, x: s.c(input=x), c=conv())),
    ("sum by keyword", Of(lambda _, x: torch.add(input=x, other=9 * x))), ("CELU", nn.CELU(-2.0)),
    ("jump", nn.Softplus(1.0, threshold=0.5)), ("alpha dropout", nn.AlphaDropout(0.5).train()),
    ("negative alpha", nn.LocalResponseNorm(2, alpha=-0.1, k=1.0)), ("a new subclass", type("Own", (nn.ReLU,), {
        "forward": lambda _, x: 9 * x, "__module__": "torch.nn"})()),
    ("transposed", nn.ConvTranspose2d(2, 3, 3)),
    ("running softmax", nn.Softmin(1)),
    ("fold", Of(lambda _, x: x.cumsum(3))),
    ("ones like", Of(lambda _, x: (lambda h: (h.add_(x), h * x)[1])(torch.zeros_like(x)))),
]  # fmt: skip


def names(cases: list[Case]) -> dict[str, Any]:
    return {"argvalues": [model for _, model in cases], "ids": [name for name, _ in cases]}


@pytest.mark.parametrize("model", **names(TIGHT))
def test_a_bound_that_is_attained(model: nn.Module) -> None:
    is_training = model.training and not isinstance(model, Of)
    bound = bound_of(model.train(is_training))
    torch.manual_seed(0)
    assert bound == pytest.approx(jacobian_norm(model), rel=1e-5)


@pytest.mark.parametrize("model", **names(FINITE))
def test_no_jacobian_exceeds_the_bound(model: nn.Module) -> None:
    bound = bound_of(model.eval())
    assert bound < math.inf
    assert jacobian_norm(model) <= bound * (1 + 1e-6)


@pytest.mark.parametrize("model", **names(UNBOUNDED))
def test_what_has_no_known_bound_has_none(model: nn.Module) -> None:
    assert bound_of(model) == math.inf


def test_the_bound_at_a_layer_is_that_of_its_own_result() -> None:
    """Not of what an operation in place makes of it afterwards."""
    model = nn.Sequential(conv(), nn.LeakyReLU(5.0, inplace=True)).eval()
    network = Network(model, SHAPE)
    bounds = product_bounds(network)
    (layer,) = network.layers
    assert bounds[network.nodes[-1]] == pytest.approx(5 * bounds[layer.node])


def test_hooks_of_modules_are_not_overlooked() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Flatten())
    model[0].register_forward_hook(lambda _module, _inputs, output: 100 * output)
    assert bound_of(model) == math.inf
    model = nn.Sequential(conv(), nn.BatchNorm2d(2)).eval()
    model[0].register_forward_hook(lambda _module, _inputs, output: 100 * output)
    with pytest.raises(UserError, match="the Conv2d has hooks or a forward pass of its own"):
        bound_of(model)
    model.register_forward_hook(lambda _module, _inputs, output: 100 * output)
    with pytest.raises(UserError, match="the Sequential has forward hooks, which a trace leaves out"):
        bound_of(model)


@pytest.mark.parametrize("name", ["add", "mul", "size", "shape", "sum", "relu", "neg", "detach", "cat", "constant"])
def test_modules_may_have_the_names_of_operations(name: str) -> None:
    model = Of(lambda s, x: getattr(s, name)(x), **{name: nn.Linear(6, 6, bias=False)})
    assert bound_of(model) == pytest.approx(jacobian_norm(model), rel=1e-5)


def test_a_layer_used_at_two_sizes_has_the_bound_of_each() -> None:
    layer = conv()
    model = Of(lambda s, x: s.c(functional.interpolate(s.c(x), scale_factor=3)), c=layer)
    network = Network(model, SHAPE)
    first, second = network.layers
    known = {first.node: 2.0, second.node: 5.0}
    assert product_bounds(network, known)[network.nodes[-1]] == pytest.approx(2 * 3 * 5)
