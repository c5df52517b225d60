"""The contract of every attack in the registry."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from advlab.attacks import registry, targets
from advlab.attacks.registry import Attack
from advlab.attacks.result import Adversarial
from advlab.data import Dataset
from advlab.errors import UserError

BOX = (0.0, 1.0)
Right = Callable[..., tuple[Tensor, Tensor]]
Take = Callable[[Adversarial, Tensor], Adversarial]


@pytest.fixture(params=list(registry.ATTACKS))
def attack(request: pytest.FixtureRequest) -> Attack:
    return registry.resolve(request.param)


def run(
    attack: Attack,
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    target: str | Tensor = "random",
    bounds: tuple[float, float] = BOX,
    index: Tensor | None = None,
) -> Adversarial:
    return attack(model, images, labels, target, bounds, seed=3, index=index)


def assert_same(first: Adversarial, second: Adversarial, tolerance: float) -> None:
    """Equal verdicts and targets, distances and images within a relative and absolute tolerance."""
    assert torch.equal(first.success, second.success)
    assert torch.equal(first.target, second.target)
    torch.testing.assert_close(first.l2, second.l2, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(first.images, second.images, rtol=0, atol=tolerance)


@pytest.mark.parametrize("target", targets.POLICIES)
@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_succeeds_in_the_box_and_measures_truly(
    attack: Attack, target: str, name: str, request: pytest.FixtureRequest, mnist_test: Dataset, right: Right
) -> None:
    model = request.getfixturevalue(name)
    images, labels = right(model, mnist_test, 12)
    found = run(attack, model, images, labels, target)
    assert found.success.all()
    assert found.images.min() >= 0
    assert found.images.max() <= 1
    assert (found.images.shape, found.images.dtype) == (images.shape, images.dtype)
    read = model(found.images).argmax(1)
    assert torch.equal(read, found.target)
    assert (read != labels).all()
    r = (found.images.double() - images.double()).flatten(1)
    torch.testing.assert_close(found.l2, r.norm(dim=1), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.rms, r.square().mean(1).sqrt(), rtol=1e-12, atol=0)
    assert (found.evaluations > 0).all()


@pytest.mark.parametrize(("size", "target"), [(1, "random"), (3, "random"), (8, "random"), (2, "nearest")])
def test_rows_do_not_depend_on_their_batch(
    attack: Attack, size: int, target: str, sigmoid: nn.Module, mnist_test: Dataset, right: Right
) -> None:
    images, labels = right(sigmoid, mnist_test, 8 if target == "random" else 4)
    index = torch.arange(100, 100 + len(images))
    whole = run(attack, sigmoid, images, labels, target, index=index)
    close = 0
    for rows in torch.arange(len(images)).split(size):
        part = run(attack, sigmoid, images[rows], labels[rows], target, index=index[rows])
        assert torch.equal(part.success, whole.success[rows])
        close += int(((part.l2 - whole.l2[rows]).abs() <= 2e-3 * whole.l2[rows]).sum())
    # the rounding of another batch may tip a choice between two nearly equal ways; float64, below, knows no such ties
    assert close >= len(images) - 1


def test_a_model_that_answers_row_by_row_gives_the_same_bits_in_any_batch(
    attack: Attack, sigmoid: nn.Module, mnist_test: Dataset, right: Right
) -> None:
    images, labels = right(sigmoid, mnist_test, 4)
    target = "random" if attack is registry.resolve("lbfgs") else "nearest"  # batched products aim minimum_norm

    def model(x: Tensor) -> Tensor:
        return torch.cat([sigmoid(row[None].clone()) for row in x])

    index = torch.arange(4)
    whole = run(attack, model, images, labels, target, index=index)
    for rows in (index[:1], index[1:4]):
        part = run(attack, model, images[rows], labels[rows], target, index=rows)
        for name in ("images", "success", "l2", "target", "evaluations"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[rows]), name


def test_in_double_precision_batches_agree_to_rounding(
    attack: Attack, sigmoid: nn.Module, mnist_test: Dataset, right: Right, take: Take
) -> None:
    images, labels = right(sigmoid, mnist_test, 8)

    def model(x: Tensor) -> Tensor:
        return torch.func.functional_call(sigmoid, {k: v.double() for k, v in sigmoid.state_dict().items()}, x)

    whole = run(attack, model, images.double(), labels)
    assert whole.images.dtype == torch.float64
    assert whole.success.all()
    order = torch.tensor([5, 2, 7, 0, 1, 6, 4, 3])
    permuted = run(attack, model, images[order].double(), labels[order], index=order)
    assert_same(permuted, take(whole, order), tolerance=1e-8)


def test_same_seed_same_bits(attack: Attack, sigmoid: nn.Module, mnist_test: Dataset, right: Right) -> None:
    images, labels = right(sigmoid, mnist_test, 6)
    first, second = (run(attack, sigmoid, images, labels) for _ in range(2))
    for name in ("images", "success", "l2", "target", "evaluations"):
        assert torch.equal(getattr(first, name), getattr(second, name))


def test_duplicated_rows_have_equal_results(
    attack: Attack, sigmoid: nn.Module, mnist_test: Dataset, right: Right
) -> None:
    images, labels = right(sigmoid, mnist_test, 1)
    found = run(attack, sigmoid, images.expand(5, -1, -1, -1), labels.expand(5), "runner-up")
    assert (found.l2 - found.l2[0]).abs().max() <= 2e-3 * found.l2[0]


@pytest.mark.parametrize("target", ["explicit", "nearest"])
def test_images_classified_so_already_are_returned_unchanged(
    attack: Attack, target: str, softmax: nn.Module, mnist_test: Dataset, right: Right
) -> None:
    images, labels = right(softmax, mnist_test, 6)
    classified_so = torch.tensor([True, False, True, False, False, True])
    if target == "explicit":
        aim: str | Tensor = torch.where(classified_so, labels, (labels + 1) % 10)
        claimed = labels
    else:
        aim, claimed = "nearest", torch.where(classified_so, (labels + 1) % 10, labels)
    found = run(attack, softmax, images, claimed, aim)
    assert torch.equal(found.images[classified_so], images[classified_so])
    assert (found.l2[classified_so] == 0).all()
    assert found.c[classified_so].isnan().all()
    assert found.success.all()
    assert (found.l2[~classified_so] > 0).all()


def test_every_image_classified_so_already(
    attack: Attack, softmax: nn.Module, mnist_test: Dataset, right: Right
) -> None:
    images, labels = right(softmax, mnist_test, 3)
    for found in (
        run(attack, softmax, images, labels, labels),
        run(attack, softmax, images, (labels + 1) % 10, "nearest"),
    ):
        assert torch.equal(found.images, images)
        assert found.success.all()


@pytest.mark.parametrize("target", ["random", "nearest"])
def test_nan_logits_harm_no_other_row(
    attack: Attack, target: str, sigmoid: nn.Module, mnist_test: Dataset, right: Right, take: Take
) -> None:
    images, labels = right(sigmoid, mnist_test, 4)
    broken = torch.tensor([False, True, False, True])
    images = images.clone()
    images[broken, 0, 0, 0] = 1.0

    def model(x: Tensor) -> Tensor:
        bad = x.view(len(x), -1)[:, :1] > 0.9
        return sigmoid(x).masked_fill(bad, torch.nan)

    found = run(attack, model, images, labels, target)
    sane = (~broken).nonzero().squeeze(1)
    alone = run(attack, sigmoid, images[sane], labels[sane], target, index=sane)
    assert_same(take(found, sane), alone, tolerance=2e-3)
    assert found.images.isfinite().all()
    assert torch.equal(found.success, ~model(found.images).isnan().any(1))


def test_a_model_of_nans_fails_everywhere(attack: Attack) -> None:
    images, labels = torch.rand(3, 5), torch.tensor([0, 1, 2])
    found = run(attack, lambda x: x[:, :3] * torch.nan, images, labels)
    assert not found.success.any()
    assert found.images.isfinite().all()


@pytest.mark.parametrize("target", ["random", "nearest"])
def test_a_constant_model_cannot_be_fooled(attack: Attack, target: str) -> None:
    images, labels = torch.rand(4, 6), torch.tensor([1, 1, 1, 1])
    found = run(attack, lambda x: torch.tensor([0.0, 1.0, 0.0]) + 0 * x[:, :3], images, labels, target)
    assert not found.success.any()
    assert found.images.min() >= 0
    assert found.images.max() <= 1


@pytest.mark.parametrize("target", targets.POLICIES)
def test_two_classes(attack: Attack, target: str) -> None:
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(20, 2, dtype=torch.float64).requires_grad_(False)
    model.weight.copy_(torch.randn(2, 20, generator=generator))
    images = torch.rand(7, 20, generator=generator, dtype=torch.float64)
    labels = model(images).argmax(1)
    found = run(attack, model, images, labels, target)
    assert found.success.all()
    assert torch.equal(found.target, 1 - labels)


@pytest.mark.parametrize("target", ["random", "nearest"])
def test_no_images_no_results(attack: Attack, target: str, softmax: nn.Module) -> None:
    found = run(attack, softmax, torch.zeros(0, 1, 28, 28), torch.zeros(0, dtype=torch.int64), target)
    assert len(found) == 0
    assert found.images.shape == (0, 1, 28, 28)
    assert found.c.shape == found.success.shape == (0,)


def test_nearest_is_never_farther_than_a_single_target(
    attack: Attack, sigmoid: nn.Module, mnist_test: Dataset, right: Right
) -> None:
    images, labels = right(sigmoid, mnist_test, 5)
    nearest = run(attack, sigmoid, images, labels, "nearest")
    every = (labels[:, None] + torch.arange(1, 10)) % 10
    single = run(attack, sigmoid, images.repeat_interleave(9, 0), labels.repeat_interleave(9), every.flatten())
    l2 = single.l2.masked_fill(~single.success, torch.inf).view(5, 9)
    beaten = nearest.l2 > l2.amin(1) * 1.005
    # minimum_norm does not search all classes to the end, and may misjudge an image
    assert int(beaten.sum()) <= (0 if attack is registry.resolve("lbfgs") else 1)


@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (0.0, 255.0)])
def test_another_box_scales_the_answer(
    attack: Attack, bounds: tuple[float, float], softmax: nn.Module, mnist_test: Dataset, right: Right
) -> None:
    images, labels = right(softmax, mnist_test, 6)
    low, width = bounds[0], bounds[1] - bounds[0]
    plain = run(attack, softmax, images, labels, "runner-up")
    scaled = run(attack, lambda x: softmax((x - low) / width), images * width + low, labels, "runner-up", bounds)
    assert scaled.success.all()
    assert scaled.images.min() >= bounds[0]
    assert scaled.images.max() <= bounds[1]
    torch.testing.assert_close(scaled.l2, plain.l2 * width, rtol=0.02, atol=0)


def test_flat_images_are_as_good(attack: Attack, sigmoid: nn.Module, mnist_test: Dataset, right: Right) -> None:
    images, labels = right(sigmoid, mnist_test, 4)
    square, flat = run(attack, sigmoid, images, labels), run(attack, sigmoid, images.flatten(1), labels)
    assert flat.images.shape == (4, 784)
    assert torch.equal(flat.images, square.images.flatten(1))


def test_images_outside_the_box_are_refused(attack: Attack, softmax: nn.Module, mnist_test: Dataset) -> None:
    with pytest.raises(UserError, match=r"outside bounds=\(0\.0, 1\.0\)"):
        run(attack, softmax, mnist_test.images[:2] * 255, mnist_test.labels[:2])


def test_gradients_of_the_caller_are_left_alone(
    attack: Attack, softmax: nn.Module, mnist_test: Dataset, right: Right
) -> None:
    images, labels = right(softmax, mnist_test, 2)
    before = images.clone()
    with torch.no_grad():
        found = run(attack, softmax, images, labels)
    assert torch.equal(images, before)
    assert not found.images.requires_grad
    assert found.success.all()


def test_a_budget_may_be_named(mnist_test: Dataset, right: Right, softmax: nn.Module) -> None:
    images, labels = right(softmax, mnist_test, 3)
    found = run(registry.resolve("minimum-norm:12"), softmax, images, labels, "nearest")
    assert found.evaluations.max() <= 12
    assert registry.settings("minimum-norm:12") == registry.settings("minimum-norm") | {"max_evaluations": 12}
    for budget in ("0", "many", "-3"):
        with pytest.raises(UserError, match=f"{budget!r} is not a number of evaluations; write e.g. minimum-norm:32"):
            registry.resolve(f"minimum-norm:{budget}")
