"""The minimum-norm attack: the exact optimum on linear models, and the contract of every attack."""

import copy
import sys
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_exact import linear_minimum
from torch import Tensor, nn

from advlab import compiled
from advlab.attacks.criterion import Criterion
from advlab.attacks.minimum_norm import minimum_norm
from advlab.attacks.minimum_norm.lanes import ONLY_MOVING, PER_LANE, Lanes
from advlab.attacks.minimum_norm.rays import Rays
from advlab.attacks.model import PROBED
from advlab.errors import UserError


def linear(size: int = 40, num_classes: int = 6, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(size, num_classes)


def smooth(size: int = 40, num_classes: int = 6) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(size, 24), nn.Sigmoid(), nn.Linear(24, num_classes))


def kinked() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5))


MODELS = {"linear": (linear(), (40,)), "smooth": (smooth(), (40,)), "kinked": (kinked(), (1, 8, 8))}


def case(name: str, batch: int, dtype: torch.dtype = torch.float32):
    model, shape = MODELS[name]
    model = model.to(dtype)
    images = torch.rand(batch, *shape, generator=torch.Generator().manual_seed(batch), dtype=dtype)
    return model, images, model(images).argmax(1)


@pytest.fixture(autouse=True)
def _float32_models():
    yield
    for model, _ in MODELS.values():
        model.float()


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_linear_models_are_solved_to_the_optimum(num_classes):
    model = linear(100, num_classes)
    images = torch.rand(200, 100)
    labels = model(images).argmax(1)
    exact = linear_minimum(model, images, labels).l2
    found = minimum_norm(model, images, labels)
    assert found.success.all()
    assert (found.l2 <= exact * (1 + 1e-3) + 2e-5).all()  # the allowance for rounding counts on tiny distances
    assert (found.l2.sum() / exact.sum() - 1) < 1e-4


@pytest.mark.parametrize("policy", ["random", "runner-up", "least-likely"])
def test_targeted_linear_models_come_close_to_the_optimum(policy):
    model = linear(100, 10)
    images = torch.rand(100, 100)
    labels = model(images).argmax(1)
    found = minimum_norm(model, images, labels, policy)
    exact = linear_minimum(model, images, labels, found.target).l2
    assert exact.isfinite().all()
    assert found.success.all()
    assert (found.l2 >= exact * (1 - 1e-6)).all()
    assert (found.l2.sum() / exact.sum() - 1) < 2e-3


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("target", ["nearest", "random"])
@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_contract(name, target, batch, dtype):
    model, images, labels = case(name, batch, dtype)
    found = minimum_norm(model, images, labels, target, max_evaluations=50)
    assert found.images.shape == images.shape
    assert found.images.dtype == dtype
    assert (found.images >= 0).all()
    assert (found.images <= 1).all()
    assert (found.evaluations <= 50).all()
    criterion = Criterion(labels, None if target == "nearest" else found.target)
    assert torch.equal(found.success, criterion.is_met(model(found.images)))
    torch.testing.assert_close(found.l2, (found.images - images).double().flatten(1).norm(dim=1))
    again = minimum_norm(model, images, labels, target, max_evaluations=50)
    assert torch.equal(found.images, again.images)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_rows_do_not_depend_on_their_batch(name, batch_size):
    model, images, labels = case(name, 8, torch.float64)
    together = minimum_norm(model, images, labels)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    shuffled = minimum_norm(model, images[order], labels[order], batch_size=batch_size)
    torch.testing.assert_close(shuffled.l2, together.l2[order], rtol=1e-4, atol=0)  # kinks amplify rounding


def test_random_targets_follow_the_index():
    model, images, labels = case("smooth", 8)
    whole = minimum_norm(model, images, labels, "random", seed=3)
    half = minimum_norm(model, images[4:], labels[4:], "random", seed=3, index=torch.arange(4, 8))
    assert torch.equal(half.target, whole.target[4:])


@pytest.mark.parametrize("name", MODELS)
def test_successes_survive_other_batch_sizes(name):
    model, images, labels = case(name, 64)
    found = minimum_norm(model, images, labels)
    alone = torch.cat([model(image[None]) for image in found.images]).argmax(1)
    assert torch.equal(alone != labels, found.success)


def test_misclassified_images_are_returned_unchanged():
    model, images, labels = case("smooth", 8)
    wrong = (labels + 1) % 6
    found = minimum_norm(model, images, wrong)
    assert found.success.all()
    assert torch.equal(found.images, images)
    assert (found.l2 == 0).all()
    reached = minimum_norm(model, images, wrong, labels)
    assert torch.equal(reached.images, images)
    assert reached.success.all()


@pytest.mark.parametrize("budget", [1, 2, 3, 5, 8, 13, 21, 40, 80])
@pytest.mark.parametrize("target", ["nearest", "least-likely"])
def test_the_budget_is_never_exceeded(budget, target):
    model, images, labels = case("kinked", 16)
    rows = 0

    def counted(x):
        nonlocal rows
        rows += len(x)
        return model(x)

    found = minimum_norm(counted, images, labels, target, max_evaluations=budget)
    assert (found.evaluations <= budget).all()
    forwards = rows - PROBED - len(images)  # the check of the model, and the verdict
    assert forwards <= int(found.evaluations.sum())


def test_more_budget_is_not_worse():
    model, images, labels = case("kinked", 64)
    means = [float(minimum_norm(model, images, labels, max_evaluations=n).l2.mean()) for n in (32, 96, 256)]
    assert means[1] <= means[0] * 1.002
    assert means[2] <= means[1] * 1.002


def test_the_box_is_honoured_at_other_scales():
    model, images, labels = case("smooth", 8)
    scaled = nn.Sequential(_Affine(1 / 255.0), model)
    found = minimum_norm(scaled, images * 255, labels, bounds=(0.0, 255.0))
    reference = minimum_norm(model, images, labels)
    assert (found.images >= 0).all()
    assert (found.images <= 255).all()
    torch.testing.assert_close(found.l2 / 255, reference.l2, rtol=1e-2, atol=0)


class _Affine(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x):
        return self.scale * x


def test_a_nan_row_does_not_poison_the_others():
    model, images, labels = case("smooth", 4, torch.float64)
    reference = minimum_norm(model, images, labels)
    images[1] = 1.0
    found = minimum_norm(lambda x: model(x).where(x.flatten(1).mean(1, keepdim=True) < 0.99, torch.nan), images, labels)
    good = torch.tensor([0, 2, 3])
    assert found.success.tolist() == [True, False, True, True]
    torch.testing.assert_close(found.l2[good], reference.l2[good])


def test_models_that_return_nan_fail_quietly():
    images, labels = torch.rand(3, 5), torch.tensor([0, 1, 0])
    found = minimum_norm(lambda x: x[:, :2] * torch.nan, images, labels)
    assert not found.success.any()
    assert torch.equal(found.images, images)


def test_models_that_turn_nan_on_the_way_keep_the_image_finite():
    def model(x):
        return torch.stack((1 - x.sum(1), (0.9 - x.sum(1)).sqrt() - 1), 1)

    found = minimum_norm(model, torch.full((2, 3), 0.1), torch.zeros(2, dtype=torch.int64))
    assert found.images.isfinite().all()
    assert (found.evaluations <= 96).all()


def test_constant_models_fail_quietly():
    images, labels = torch.rand(4, 5), torch.zeros(4, dtype=torch.int64)
    found = minimum_norm(lambda x: torch.tensor([1.0, 0.5, 0.0]) + 0 * x[:, :3], images, labels)
    assert not found.success.any()
    assert torch.equal(found.images, images)


def test_ties_at_the_clean_image_are_broken():
    found = minimum_norm(lambda x: torch.stack((x[:, 0], x[:, 1]), 1), torch.full((1, 2), 0.5), torch.tensor([0]))
    assert found.success.all()
    assert float(found.l2) < 1e-4


def test_duplicated_rows_get_the_same_answer():
    model, images, labels = case("kinked", 3, torch.float64)
    found = minimum_norm(model, images.repeat(2, 1, 1, 1), labels.repeat(2))
    torch.testing.assert_close(found.l2[:3], found.l2[3:])


def test_empty_batches():
    found = minimum_norm(linear(), torch.rand(0, 40), torch.zeros(0, dtype=torch.int64))
    assert len(found) == 0


def test_works_where_gradients_are_switched_off():
    model, images, labels = case("linear", 3)
    with torch.no_grad():
        assert minimum_norm(model, images, labels).success.all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "closest"}, "closest"),
        ({"max_evaluations": 0}, "max_evaluations=0"),
        ({"bounds": (0.0, 0.1)}, "outside bounds"),
        ({"target": torch.tensor([9, 9, 9])}, "outside"),
        ({"target": torch.tensor([1])}, "shape"),
    ],
)
def test_user_mistakes_are_one_clear_sentence(change, message):
    model, images, labels = case("linear", 3)
    with pytest.raises(UserError, match=message):
        minimum_norm(model, images, labels, **change)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    batch=st.integers(1, 6),
    size=st.integers(1, 30),
    num_classes=st.integers(2, 5),
    box=st.tuples(st.floats(-2, 0.4), st.floats(0.6, 3)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    budget=st.integers(1, 60),
)
def test_any_box_and_any_linear_model(seed, batch, size, num_classes, box, dtype, budget):
    torch.manual_seed(seed)
    model = nn.Linear(size, num_classes).to(dtype)
    lower, upper = box
    images = (lower + (upper - lower) * torch.rand(batch, size, dtype=dtype)).clamp(lower, upper)
    labels = torch.randint(num_classes, (batch,))
    found = minimum_norm(model, images, labels, bounds=box, max_evaluations=budget)
    exact = linear_minimum(model, images, labels, bounds=box).l2
    assert (found.images >= lower).all()
    assert (found.images <= upper).all()
    assert (found.evaluations <= budget).all()
    assert (found.l2[found.success] >= exact[found.success] * (1 - 1e-5) - 1e-6).all()
    assert torch.equal(found.success, Criterion(labels).is_met(model(found.images)))


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    batch=st.integers(1, 5),
    num_classes=st.integers(2, 4),
    box=st.tuples(st.floats(-2, 0.4), st.floats(0.6, 3)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    budget=st.integers(1, 80),
    target=st.sampled_from(["nearest", "runner-up", "random"]),
)
def test_any_box_and_any_relu_network(seed, batch, num_classes, box, dtype, budget, target):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, num_classes)).to(dtype)
    lower, upper = box
    images = (lower + (upper - lower) * torch.rand(batch, 6, dtype=dtype)).clamp(lower, upper)
    images, labels = images.repeat(2, 1), torch.randint(num_classes, (batch,)).repeat(2)
    index = torch.arange(batch).repeat(2)
    found = minimum_norm(model, images, labels, target, bounds=box, max_evaluations=budget, index=index)
    assert (found.images >= lower).all()
    assert (found.images <= upper).all()
    assert (found.evaluations <= budget).all()
    criterion = Criterion(labels, None if target == "nearest" else found.target)
    assert torch.equal(found.success, criterion.is_met(model(found.images)))
    assert (found.l2[criterion.is_met(model(images))] == 0).all()
    if dtype == torch.float64:
        assert torch.equal(found.success[:batch], found.success[batch:])
        torch.testing.assert_close(found.l2[:batch], found.l2[batch:], rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("trainable", [True, False])
def test_the_parameters_are_left_as_they_are(trainable):
    model, images, labels = case("smooth", 4)
    model = copy.deepcopy(model).requires_grad_(trainable)
    model[0].bias.grad = torch.ones_like(model[0].bias)
    minimum_norm(model, images, labels)
    assert all(parameter.requires_grad == trainable for parameter in model.parameters())
    assert torch.equal(model[0].bias.grad, torch.ones_like(model[0].bias))
    assert all(parameter.grad is None for parameter in (model[0].weight, model[2].weight, model[2].bias))


def test_a_second_descent_finds_better_minima_of_networks_with_kinks(monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 60), nn.ReLU(), nn.Linear(60, 5))
    images = torch.rand(200, 30)
    labels = model(images).argmax(1)
    both = minimum_norm(model, images, labels).l2
    monkeypatch.setattr(sys.modules["advlab.attacks.minimum_norm.search"], "RETREAT_SHARE", 0.0)
    first = minimum_norm(model, images, labels).l2
    assert both.mean() < first.mean()
    assert (both <= first * 1.001).double().mean() > 0.95


@pytest.mark.parametrize(("depth", "gain"), [(10, 3.0), (6, 4.0)])
def test_networks_whose_gradients_turn_fast_are_fooled_too(depth: int, gain: float) -> None:
    """Without steps that add up, three images in fifty are never misclassified."""
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    weights = [draw(64, 64) * gain / 8 for _ in range(depth)]

    def network(points: Tensor) -> Tensor:
        for weight in weights:
            points = torch.tanh(points @ weight)
        return 10 * points[:, :5]

    images = draw(50, 64)
    labels = network(images).argmax(1)
    adv = minimum_norm(network, images, labels, bounds=(-9.0, 9.0))
    assert bool(adv.success.all())
    assert int(adv.evaluations.max()) <= 96
    assert float(adv.l2.median()) < 0.1 * float(images.norm(dim=1).min())
    targeted = minimum_norm(network, images, labels, target="runner-up", bounds=(-9.0, 9.0))
    assert float(targeted.success.double().mean()) > 0.9


def test_smooth_boundaries_are_not_descended_to_twice(monkeypatch):
    model, images, labels = case("smooth", 64)
    once = minimum_norm(model, images, labels)
    monkeypatch.setattr(sys.modules["advlab.attacks.minimum_norm.lanes"], "BEND", (torch.inf, 0.0))
    twice = minimum_norm(model, images, labels)
    assert once.evaluations.sum() < 0.8 * twice.evaluations.sum()
    torch.testing.assert_close(once.l2, twice.l2, rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("target", ["nearest", "random"])
def test_blocks_for_the_cache_change_nothing(name, target, monkeypatch):
    model, images, labels = case(name, 16, torch.float64)
    whole = minimum_norm(model, images, labels, target)
    monkeypatch.setattr(sys.modules["advlab.attacks.chunks"], "BLOCK_BYTES", 1000)
    parts = minimum_norm(model, images, labels, target)
    assert torch.equal(parts.evaluations, whole.evaluations)
    torch.testing.assert_close(parts.l2, whole.l2, rtol=1e-6, atol=0)


def lanes_of(rows: Tensor, pixels: Tensor) -> Lanes:
    count, size = pixels.shape
    rays = Rays.unknown(pixels.clone())
    lengths, numbers = torch.rand(count), torch.arange(count)
    lanes = Lanes.start(
        rays, row=rows.clone(), place=numbers, rivals=rows[:, None].clone(), x=pixels.clone(), length=lengths,
        normals=torch.zeros(count, 0, size), multipliers=torch.rand(count, 1), cap=torch.rand(count),
    )  # fmt: skip
    lanes.velocity.copy_(torch.rand(count, size))
    return lanes


@pytest.mark.parametrize("gone", [[0, 3, 6], [6], [5, 6], list(range(7)), []])
def test_retired_lanes_leave_the_others_as_they_are(gone):
    before = lanes_of(torch.arange(7), torch.rand(7, 3))
    after = before.keep(torch.arange(7))
    after.retire(torch.tensor(gone, dtype=torch.int64))
    assert after.moving == 7 - len(gone)
    assert sorted(after.row[: after.moving].tolist()) == sorted(set(range(7)) - set(gone))
    assert sorted(after.row[after.moving :].tolist()) == gone
    for name in PER_LANE:
        count = after.moving if name in ONLY_MOVING else 7
        assert torch.equal(getattr(after, name)[:count], getattr(before, name)[after.row[:count]])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("target", ["nearest", "random"])
@pytest.mark.parametrize("budget", [1, 3, 7, 40, 96])
def test_compiled_loops_do_what_the_array_operations_do(name, target, budget, monkeypatch):
    model, images, labels = case(name, 48, torch.float64)
    loops = minimum_norm(model, images, labels, target, max_evaluations=budget)
    monkeypatch.setattr(compiled, "fits", lambda *_: False)
    arrays = minimum_norm(model, images, labels, target, max_evaluations=budget)
    assert torch.equal(loops.success, arrays.success)
    assert torch.equal(loops.evaluations, arrays.evaluations)
    torch.testing.assert_close(loops.l2, arrays.l2, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(loops.images, arrays.images, rtol=0, atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.sampled_from([torch.float32, torch.float64]))
def test_a_compiled_step_is_the_step_of_arrays(seed, dtype):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=dtype)

    count, size = 12, 30
    images, rows = draw(5, size), torch.randint(5, (count,), generator=generator)
    gradient, margins = draw(count, size) - 0.5, draw(count, 1) - 0.3
    gradient[0], gradient[1, 3], margins[2], gradient[3] = 0, torch.nan, torch.inf, 1e30
    x = (images[rows] + 0.3 * (draw(count, size) - 0.5)).clamp(0, 1)
    x[4] = images[rows[4]]
    start = {"x": x, "length": (x - images[rows]).norm(dim=1), "multipliers": draw(count, 1), "cap": draw(count)}
    start |= {"rivals": rows[:, None], "normals": x.new_empty(count, 0, size)}
    both = []
    for fits in (True, False):
        rays = Rays.unknown(images)
        copies = {name: part.clone() for name, part in start.items()}
        lanes = Lanes.start(rays, row=rows, place=torch.arange(count), **copies)
        lanes.velocity.zero_()
        with pytest.MonkeyPatch.context() as patch:
            if not fits:
                patch.setattr(compiled, "fits", lambda *_: False)
            for step in (1.0, 0.5):
                lanes.advance(step * margins, gradient, step, 0.8, 0.0, 1.0)
        both.append(lanes)
    close = {torch.float32: 2e-4, torch.float64: 1e-9}[dtype]
    for name in PER_LANE:
        one, other = getattr(both[0], name), getattr(both[1], name)
        if name == "velocity":
            known = both[0].weight > 0
            one, other = one[known], other[known]
        if name != "curved":
            torch.testing.assert_close(one, other, rtol=close, atol=close, equal_nan=True)
    for name in ("ends", "crossing", "doubt", "merit"):
        torch.testing.assert_close(getattr(both[0].rays, name), getattr(both[1].rays, name), rtol=close, atol=close)


@pytest.mark.parametrize("target", ["nearest", "random"])
def test_a_model_of_the_wrong_shape_is_named(target):
    model, images, labels = case("smooth", 4)
    with pytest.raises(UserError, match="returned shape"):
        minimum_norm(lambda x: model(x[:1]), images, labels, target)


def test_a_model_that_differentiates_within_is_attacked():
    model, images, labels = case("smooth", 4)

    def inner(x: Tensor) -> Tensor:
        with torch.enable_grad():
            return model(x)

    torch.testing.assert_close(minimum_norm(inner, images, labels).l2, minimum_norm(model, images, labels).l2)


def test_inference_mode_changes_nothing():
    model, images, labels = case("smooth", 4)
    outside = minimum_norm(model, images, labels)
    with torch.inference_mode():
        inside = minimum_norm(model, images.clone(), labels.clone())
    assert outside.success.all()
    torch.testing.assert_close(inside.l2, outside.l2)


@pytest.mark.parametrize("budget", [10, 96])
def test_a_class_without_a_gradient_is_not_a_rival(budget):
    def model(x: Tensor) -> Tensor:
        first, dead = torch.ones(len(x)) + 0 * x[:, 0], 0.5 + 0 * x[:, 0]
        return torch.stack((first, dead, 0.2 + 4 * (x[:, 0] - 0.4).clamp_min(0) ** 2), 1)

    images, labels = torch.tensor([[0.45, 0.5, 0.5]]), torch.zeros(1, dtype=torch.int64)
    found = minimum_norm(model, images, labels, max_evaluations=budget)
    assert found.success.all()
    assert float(found.l2) == pytest.approx(0.4 + 0.2**0.5 - 0.45, abs=1e-4)
