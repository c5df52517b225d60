"""Models, images and arguments as people have them: the right answer or one sentence, from every attack alike."""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from advlab.attacks import minimum_norm, registry, szegedy_lbfgs
from advlab.attacks.criterion import Criterion
from advlab.attacks.model import finite, gradient
from advlab.attacks.registry import Attack
from advlab.attacks.result import Adversarial, judge
from advlab.errors import UserError

ModelOutput = namedtuple("ModelOutput", "logits hidden")


@pytest.fixture(params=list(registry.ATTACKS))
def attack(request: pytest.FixtureRequest) -> Attack:
    return registry.resolve(request.param)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """A ReLU network of five classes on 8 × 8 pixels."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 5)).eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def labels(net: nn.Module, images: Tensor) -> Tensor:
    return net(images).argmax(1)


@pytest.fixture(scope="module")
def reference(net: nn.Module, images: Tensor, labels: Tensor) -> Callable[[Attack, str], Adversarial]:
    """What an attack finds on the network as it is."""

    @functools.cache
    def find(attack: Attack, target: str) -> Adversarial:
        return run(attack, net, images, labels, target)

    return find


def run(
    attack: Attack, model: Any, images: Any, labels: Any, target: Any = "nearest", bounds: Any = (0.0, 1.0)
) -> Adversarial:
    return attack(model, images, labels, target, bounds, seed=3, index=None)


@pytest.mark.parametrize("target", ["nearest", "random", "least-likely", "runner-up"])
@pytest.mark.parametrize("masked", [-torch.inf, torch.finfo(torch.float32).min, -1e9, -1e4, -1e3])
def test_masked_classes_change_nothing(
    attack: Attack, masked: float, target: str, net: nn.Module, images: Tensor, labels: Tensor, reference: Any
) -> None:
    def model(x: Tensor) -> Tensor:
        return torch.cat([net(x), torch.full((len(x), 2), masked)], 1)

    found, expected = run(attack, model, images, labels, target), reference(attack, target)
    assert found.success.all()
    assert found.target.max() < 5
    if target != "random":
        torch.testing.assert_close(found.l2, expected.l2, rtol=0.02, atol=0)


@pytest.mark.parametrize(
    "masking", [lambda z: z + torch.tensor([0, 0, 0, 0, -1e9]), lambda z: z[:, :4]], ids=["lowered", "left out"]
)
def test_masks_of_any_kind_agree(attack: Attack, masking: Any, net: nn.Module, images: Tensor) -> None:
    labels = net(images)[:, :4].argmax(1)
    plain = run(attack, lambda x: net(x)[:, :4], images, labels)
    found = run(attack, lambda x: masking(net(x)), images, labels)
    assert found.success.all()
    torch.testing.assert_close(found.l2, plain.l2, rtol=0.02, atol=0)


def test_targets_that_are_masked_fail_alone(attack: Attack, net: nn.Module, images: Tensor, labels: Tensor) -> None:
    def model(x: Tensor) -> Tensor:
        return torch.cat([net(x), torch.full((len(x), 1), -torch.inf)], 1)

    target = torch.where(torch.arange(len(labels)) % 2 == 0, (labels + 1) % 5, 5)
    found = run(attack, model, images, labels, target)
    assert torch.equal(found.success, target < 5)
    assert found.images.isfinite().all()


def test_a_common_offset_of_the_logits_costs_little(
    attack: Attack, net: nn.Module, images: Tensor, labels: Tensor
) -> None:
    found = run(attack, lambda x: net(x) + 100, images, labels)
    assert found.success.all()
    assert found.l2.mean() < 1.02 * run(attack, net, images, labels).l2.mean()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("where", ["images and model", "model", "autocast"])
def test_half_precision(
    attack: Attack, where: str, kind: torch.dtype, net: nn.Module, images: Tensor, reference: Any
) -> None:
    half = copy.deepcopy(net).to(kind)

    def model(x: Tensor) -> Tensor:
        if where == "autocast":
            with torch.autocast("cpu", kind):
                return net(x).float()
        return half(x) if where == "images and model" else half(x.to(kind))

    given = images.to(kind) if where == "images and model" else images
    labels = model(given).argmax(1)
    found = run(attack, model, given, labels)
    assert found.images.dtype == given.dtype
    assert found.success.all()
    assert torch.equal(model(found.images).argmax(1) != labels, found.success)
    moved = (found.images.double() - given.double()).flatten(1).norm(dim=1)
    torch.testing.assert_close(found.l2, moved)
    tolerance = 0.05 if kind == torch.float16 else 0.2
    assert found.l2.mean() < (1 + tolerance) * reference(attack, "nearest").l2.mean()


@pytest.mark.parametrize(("of_images", "of_model"), [(torch.float32, torch.float64), (torch.float64, torch.float32)])
def test_images_and_logits_of_other_types(
    attack: Attack, of_images: torch.dtype, of_model: torch.dtype, net: nn.Module, images: Tensor, reference: Any
) -> None:
    other = copy.deepcopy(net).to(of_model)
    given = images.to(of_images)
    labels = other(images.to(of_model)).argmax(1)
    found = run(attack, lambda x: other(x.to(of_model)), given, labels)
    assert found.images.dtype == of_images
    assert found.success.all()
    torch.testing.assert_close(found.l2, reference(attack, "nearest").l2, rtol=5e-3, atol=0)


def _root(net: nn.Module) -> Any:
    """A network on square roots, whose derivative at black pixels is infinite."""
    return lambda x: net(x.sqrt())


def _trap(net: nn.Module) -> Any:
    """`torch.where` over both branches of a function: NaN times zero where the other branch is taken."""
    return lambda x: net(torch.where(x > 0, (x + 0.01).sqrt() * (x / x), 0.1))


@pytest.mark.parametrize("make", [_root, _trap])
def test_pixels_without_a_finite_derivative_spoil_no_others(
    attack: Attack, make: Any, net: nn.Module, images: Tensor
) -> None:
    black = images.masked_fill(torch.arange(8) < 2, 0)
    model = make(net)
    found = run(attack, model, black, model(black).argmax(1))
    assert found.success.all()
    assert found.images.isfinite().all()
    assert found.l2.mean() < 1.5


def test_gradients_are_zero_where_they_are_not_finite() -> None:
    leaf = torch.tensor([[0.0, 1.0], [4.0, 0.0]], requires_grad=True)
    assert torch.equal(finite(gradient(leaf.sqrt(), leaf)), torch.tensor([[0.0, 0.5], [0.25, 0.0]]))


class _WithoutGradient(nn.Module):
    def __init__(self, net: nn.Module, context: Any) -> None:
        super().__init__()
        self.net, self.context = net, context

    def forward(self, x: Tensor) -> Tensor:
        with self.context():
            return self.net(x)


UNDIFFERENTIABLE: dict[str, Callable[[nn.Module], Any]] = {
    "no_grad": lambda net: _WithoutGradient(net, torch.no_grad),
    "inference_mode": lambda net: _WithoutGradient(net, torch.inference_mode),
    "detached images": lambda net: lambda x: net(x.detach()),
    "detached logits": lambda net: lambda x: net(x).detach(),
    "classes": lambda net: lambda x: functional.one_hot(net(x).argmax(1), 5).float(),
    "a constant": lambda _: lambda x: torch.arange(5.0).expand(len(x), 5),
    "NumPy": lambda net: lambda x: torch.from_numpy(net(x).numpy()),
    "bytes": lambda net: lambda x: net((255 * x).to(torch.uint8).float()),
}


@pytest.mark.parametrize("kind", UNDIFFERENTIABLE)
def test_models_that_cannot_be_differentiated(
    attack: Attack, kind: str, net: nn.Module, images: Tensor, labels: Tensor
) -> None:
    with pytest.raises(UserError, match="attack a model that torch can differentiate"):
        run(attack, UNDIFFERENTIABLE[kind](net), images, labels)


@pytest.mark.parametrize("kind", UNDIFFERENTIABLE)
def test_they_can_be_judged(kind: str, net: nn.Module, images: Tensor, labels: Tensor) -> None:
    found = judge(UNDIFFERENTIABLE[kind](net), images, images, Criterion((labels + 1) % 5), torch.zeros_like(labels))
    assert found.success.any()


OUTPUTS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "dict": (lambda z: {"logits": z, "loss": 0}, r"returned a dict with 'logits', 'loss'; return the logits alone"),
    "ordered dict": (lambda z: OrderedDict(logits=z), r"returned a OrderedDict with 'logits'"),
    "tuple": (lambda z: (z, z), r"returned a tuple of 2; return the logits alone"),
    "list": (lambda z: [z], r"returned a list of 1"),
    "named tuple": (lambda z: ModelOutput(z, z), r"returned a ModelOutput"),
    "array": (lambda z: z.detach().numpy(), r"returned a ndarray"),
    "none": (lambda _: None, r"returned a NoneType"),
    "[B]": (lambda z: z[:, 0], r"returned shape \(2,\) for 2 images; return logits \[2, classes\]"),
    "[B, k, 1, 1]": (lambda z: z[:, :, None, None], r"returned shape \(2, 5, 1, 1\)"),
    "another batch": (lambda z: z[:1], r"returned shape \(1, 5\) for 2 images"),
    "[k, B]": (lambda z: torch.cat([z, z]).T, r"returned shape \(5, 4\)"),
    "integers": (lambda z: functional.one_hot(z.argmax(1), 5), r"returned torch\.int64; return floating-point logits"),
    "one class": (lambda z: z[:, :1], r"has 1 output class; an attack needs at least 2"),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_outputs_that_are_not_logits(attack: Attack, kind: str, net: nn.Module, images: Tensor, labels: Tensor) -> None:
    change, sentence = OUTPUTS[kind]
    with pytest.raises(UserError, match=sentence):
        run(attack, lambda x: change(net(x)), images, labels)
    with pytest.raises(UserError, match=sentence):
        judge(lambda x: change(net(x)), images, images, Criterion(labels), torch.zeros_like(labels))


def _convolution() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.LazyLinear(5)
    )


class _Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(functional.dropout(x.flatten(1), 0.5, self.training))


TRAINING: dict[str, Callable[[nn.Module], Any]] = {
    "itself": lambda module: module,
    "in a function": lambda module: lambda x: module(x),
    "in a list": lambda module: lambda x: sum(one(x) for one in [module]),
    "compiled": lambda module: torch.compile(module, backend="eager"),
    "scripted": lambda module: torch.jit.script(module),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [_convolution, _Dropping])
@pytest.mark.parametrize("kind", TRAINING)
def test_train_mode_is_refused_and_nothing_is_changed(
    attack: Attack, kind: str, make: Any, images: Tensor, labels: Tensor
) -> None:
    module = make()
    module.eval()(images)
    module.train()
    if kind in ("compiled", "scripted") and make is _Dropping:
        module = nn.Sequential(module, nn.Dropout(0.1)).train()
    model = TRAINING[kind](module)
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(UserError, match=r"in train mode.*; call model\.eval\(\) before the attack"):
        run(attack, model, images, labels)
    with pytest.raises(UserError, match="in train mode"):
        judge(model, images, images, Criterion(labels), torch.zeros_like(labels))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(part.training for part in module.modules())


def test_train_mode_that_changes_nothing_is_left_alone(attack: Attack, net: nn.Module, images: Tensor) -> None:
    module = copy.deepcopy(net).train()
    assert run(attack, module, images, module(images).argmax(1)).success.all()
    assert module.training


WRITING: dict[str, Callable[[Tensor], Tensor]] = {
    "clamps": lambda x: x.clamp_(0.2, 0.8),
    "centres": lambda x: x.sub_(0.5),
    "scales": lambda x: x.mul_(2).add_(1),
    "writes a pixel": lambda x: x.index_fill_(3, torch.tensor([0]), 0.0),
    "writes unseen": lambda x: (x.data.sub_(0.5), x)[1],
}


@pytest.mark.parametrize("kind", WRITING)
def test_models_that_write_into_their_images(attack: Attack, kind: str, net: nn.Module, images: Tensor) -> None:
    change = WRITING[kind]
    before = images.clone()
    labels = net(change(images.clone())).argmax(1)
    found = run(attack, lambda x: net(change(x)), images, labels)
    expected = run(attack, lambda x: net(change(x.clone())), images, labels)
    assert torch.equal(images, before)
    assert torch.equal(found.images, expected.images)
    assert found.success.all()
    assert torch.equal(net(change(found.images.clone())).argmax(1) != labels, found.success)


def test_models_that_need_gradients_themselves(attack: Attack, net: nn.Module, images: Tensor) -> None:
    def model(x: Tensor) -> Tensor:
        logits = net(x)
        (slope,) = torch.autograd.grad(logits.square().sum(), x, create_graph=True)
        return logits + 0.01 * slope.flatten(1)[:, :5]

    labels = model(images.clone().requires_grad_()).argmax(1)
    assert run(attack, model, images, labels).success.all()


def test_frozen_parameters_and_images_that_require_gradients(
    attack: Attack, net: nn.Module, images: Tensor, labels: Tensor, reference: Any
) -> None:
    given = images.clone().requires_grad_()
    found = run(attack, copy.deepcopy(net).requires_grad_(False), given, labels.int())
    assert not found.images.requires_grad
    assert given.grad is None
    assert torch.equal(found.images, reference(attack, "nearest").images)


def test_layouts_of_memory(attack: Attack) -> None:
    torch.manual_seed(2)
    colour = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    images = torch.rand(4, 3, 8, 8)
    labels = colour(images).argmax(1)
    expected = run(attack, colour, images, labels)
    for given in (
        images.to(memory_format=torch.channels_last),
        images.transpose(2, 3).contiguous().transpose(2, 3),
        torch.cat([images, images])[::2][torch.tensor([0, 0, 1, 1])].copy_(images),
    ):
        torch.testing.assert_close(run(attack, colour, given, labels).l2, expected.l2, rtol=5e-3, atol=0)


def test_no_images_do_not_reach_the_model(attack: Attack) -> None:
    found = run(attack, lambda _: 1 / 0, torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64))
    assert len(found) == len(found.l2) == len(found.success) == 0


def test_compiled_models_and_hooks(
    attack: Attack, net: nn.Module, images: Tensor, labels: Tensor, reference: Any
) -> None:
    hooked, seen = copy.deepcopy(net), []
    hooked[1].register_full_backward_hook(lambda *_: seen.append(1))
    for model in (torch.compile(net, backend="eager"), hooked):
        found = run(attack, model, images, labels)
        torch.testing.assert_close(found.l2, reference(attack, "nearest").l2, rtol=5e-3, atol=0)
    assert seen


ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "integer images": ({"images": lambda x: (255 * x).long()}, r"images are torch\.int64; give floating-point ones"),
    "bytes": ({"images": lambda x: (255 * x).to(torch.uint8)}, r"images are torch\.uint8; give floating-point ones"),
    "array": ({"images": lambda x: x.numpy()}, "images are a ndarray; give a tensor"),
    "one image": ({"images": lambda x: x[0, 0, 0]}, r"images have shape \(8,\); give \[B, C, H, W\] or \[B, n\]"),
    "NaN pixel": ({"images": lambda x: x.index_fill(0, torch.tensor([2]), torch.nan)}, r"NaN .* first is images\[2\]"),
    "infinite pixel": ({"images": lambda x: x / 0, "bounds": (0, torch.inf)}, r"NaN or infinite pixels \(10 of 10"),
    "outside": ({"images": lambda x: 255 * x}, r"outside bounds=\(0\.0, 1\.0\); scale them or pass their bounds"),
    "float64 images": (
        {"images": lambda x: x.double()},
        "fails on images .*float64.*; give images as the model expects",
    ),
    "wrong shape": ({"images": lambda x: x[:, :, :5]}, r"fails on images of shape \[2, 1, 5, 8\]"),
    "NaN bound": ({"bounds": (torch.nan, 1)}, r"bounds=\(nan, 1\.0\) leave no room"),
    "reversed": (
        {"bounds": (1, 0)},
        r"bounds=\(1\.0, 0\.0\) leave no room; give the lowest intensity, then the highest",
    ),
    "equal": ({"bounds": (0.5, 0.5)}, "leave no room"),
    "per channel": ({"bounds": (torch.zeros(3, 1, 1), torch.ones(3, 1, 1))}, r"tensor \(3, 1, 1\).*; give two numbers"),
    "three bounds": ({"bounds": (0, 0.5, 1)}, r"bounds are \(0, 0\.5, 1\); give two numbers"),
    "one bound": ({"bounds": 1.0}, r"bounds are 1\.0; give two numbers"),
    "words": ({"bounds": ("low", "high")}, r"bounds are \('low', 'high'\); give two numbers"),
    "class": (
        {"target": 3},
        "unknown target 3; give one of random, nearest, .*, or a tensor with the class of each image",
    ),
    "policy": ({"target": "closest"}, "unknown target 'closest'; give one of random, nearest"),
    "float targets": ({"target": torch.zeros(10)}, r"target holds torch\.float32; give integers"),
    "target of all": ({"target": torch.tensor([1])}, r"target has shape \(1,\); give one class per image: \(10,\)"),
    "target too large": ({"target": torch.full((10,), 5)}, r"target holds a class outside 0\.\.4"),
    "float labels": ({"labels": lambda y: y.float()}, r"labels holds torch\.float32; give integers"),
    "one-hot labels": ({"labels": lambda y: functional.one_hot(y, 5)}, r"labels has shape \(10, 5\)"),
    "list of labels": ({"labels": lambda y: y.tolist()}, "labels is a list; give a tensor of one integer per image"),
    "too few": ({"labels": lambda y: y[:4]}, r"labels has shape \(4,\); give one class per image: \(10,\)"),
    "negative label": ({"labels": lambda y: y - 5}, r"labels span -\d\.\.-?\d, but the model has 5 classes"),
    "label too large": ({"labels": lambda y: y + 5}, r"labels span \d\.\.\d, but the model has 5 classes; give labels"),
}


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_arguments_that_cannot_be_used(
    attack: Attack, kind: str, net: nn.Module, images: Tensor, labels: Tensor
) -> None:
    given: dict[str, Any] = {"images": images, "labels": labels}
    for name, value in ARGUMENTS[kind][0].items():
        given[name] = value(given[name]) if callable(value) else value
    with pytest.raises(UserError, match=ARGUMENTS[kind][1]) as caught:
        run(attack, net, **given)
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize(
    "bounds",
    [[0, 1], (np.float32(0), np.float64(1)), (torch.tensor(0.0), torch.tensor([1.0])), (0, torch.inf)],
    ids=repr,
)
def test_bounds_may_be_any_two_numbers(
    attack: Attack, bounds: Any, net: nn.Module, images: Tensor, labels: Tensor
) -> None:
    found = run(attack, net, images, labels, bounds=bounds)
    assert found.success.all()
    assert found.images.min() >= 0


def test_attacks_take_their_arguments_by_name(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    for attack in (minimum_norm, szegedy_lbfgs):
        assert attack(model=net, images=images, labels=labels, index=torch.arange(10).int()).success.all()
