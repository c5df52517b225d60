"""The paper's attack: its minima, its search over c, and its agreement with SciPy's L-BFGS-B."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch
from scipy.optimize import Bounds, minimize
from torch import Tensor, nn
from torch.nn import functional

from advlab import compiled
from advlab.attacks import minimum_norm, targets
from advlab.attacks.criterion import Criterion, rounding_margin
from advlab.attacks.model import PROBED
from advlab.attacks.references import References
from advlab.attacks.result import Adversarial
from advlab.attacks.szegedy import LITERAL_C, Loss, Norm, szegedy_lbfgs
from advlab.data import Dataset
from advlab.errors import UserError

Right = Callable[..., tuple[Tensor, Tensor]]


def scipy_distortion(model: nn.Module, image: Tensor, target: int, bisections: int = 12) -> float:
    """RMS of the closest success that a per-image SciPy search of the same problem comes across."""
    clean = image.flatten().double().numpy()
    label = torch.tensor([target])
    closest = np.inf

    def solve(c: float) -> bool:
        def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
            nonlocal closest
            leaf = torch.from_numpy(x)[None].requires_grad_()
            logits = model(leaf)
            loss = functional.cross_entropy(logits, label)
            (gradient,) = torch.autograd.grad(loss, leaf)
            r = x - clean
            if int(logits.argmax()) == target:
                closest = min(closest, float(np.linalg.norm(r)))
            return c * float(r @ r) + loss.item(), 2 * c * r + gradient[0].numpy()

        found = minimize(objective, clean, jac=True, method="L-BFGS-B", bounds=Bounds(0.0, 1.0))
        return int(model(torch.from_numpy(found.x)[None]).argmax()) == target

    succeeds = 1.0
    while not solve(succeeds):
        succeeds /= 10
    fails = succeeds * 10
    while solve(fails):
        succeeds, fails = fails, fails * 10
    for _ in range(bisections):
        middle = (succeeds * fails) ** 0.5
        succeeds, fails = (middle, fails) if solve(middle) else (succeeds, middle)
    return closest / len(clean) ** 0.5


@pytest.mark.parametrize(("name", "number"), [("softmax", 12), ("sigmoid", 8)])
def test_as_close_as_scipy_one_image_at_a_time(
    name: str, number: int, request: pytest.FixtureRequest, mnist_test: Dataset, right: Right
) -> None:
    model = request.getfixturevalue(name)
    images, labels = right(model, mnist_test, number)
    ours = szegedy_lbfgs(model, images, labels, "random", seed=1)
    double = type(model)([784, 10] if name == "softmax" else [784, 40, 40, 10]).double()
    double.load_state_dict(model.state_dict())
    theirs = [scipy_distortion(double, image, int(t)) for image, t in zip(images, ours.target, strict=True)]
    assert ours.success.all()
    assert float(ours.rms.mean()) <= np.mean(theirs) * 1.005
    assert float(ours.rms.mean()) >= np.mean(theirs) * 0.98


@pytest.mark.parametrize("target", ["random", "nearest"])
def test_keeps_the_closest_success_of_all_evaluations(
    target: str, sigmoid: nn.Module, mnist_test: Dataset, right: Right
) -> None:
    images, labels = right(sigmoid, mnist_test, 1)
    seen: list[Tensor] = []

    def model(x: Tensor) -> Tensor:
        seen.append(x.detach().clone())
        return sigmoid(x)

    found = szegedy_lbfgs(model, images, labels, target)
    points = torch.cat(seen[:-1])  # the last one is the verdict
    criterion = Criterion(labels.expand(len(points)), None if target == "nearest" else found.target.expand(len(points)))
    rounding = rounding_margin(sigmoid(images), points.dtype).expand(len(points))
    success = criterion.is_met_robustly(sigmoid(points), rounding)
    distance = (points.double() - images.double()).flatten(1).norm(dim=1)[success]
    assert len(distance) > 3
    torch.testing.assert_close(found.l2[0], distance.min(), rtol=1e-5, atol=0)


def test_counts_gradient_evaluations(sigmoid: nn.Module, mnist_test: Dataset, right: Right) -> None:
    images, labels = right(sigmoid, mnist_test, 5)
    rows = 0

    def model(x: Tensor) -> Tensor:
        nonlocal rows
        rows += len(x) if x.requires_grad else 0
        return sigmoid(x)

    found = szegedy_lbfgs(model, images, labels)
    assert int(found.evaluations.sum()) == rows - PROBED


def test_the_search_closes_in_on_the_largest_constant(softmax: nn.Module, mnist_test: Dataset, right: Right) -> None:
    images, labels = right(softmax, mnist_test, 4)
    coarse, fine = (szegedy_lbfgs(softmax, images, labels, tolerance=tolerance) for tolerance in (3.0, 0.01))
    assert (coarse.evaluations < fine.evaluations).all()
    assert (fine.l2 <= coarse.l2 * 1.001).all()
    assert ((fine.c > 0) & fine.c.isfinite()).all()


def test_the_search_finds_its_way_from_any_constant(sigmoid: nn.Module, mnist_test: Dataset, right: Right) -> None:
    images, labels = right(sigmoid, mnist_test, 4)
    usual = szegedy_lbfgs(sigmoid, images, labels)
    for initial_c in (1e-5, 1e4):
        other = szegedy_lbfgs(sigmoid, images, labels, initial_c=initial_c)
        assert other.success.all()
        assert float(other.l2.mean()) == pytest.approx(float(usual.l2.mean()), rel=0.02)


@pytest.mark.parametrize("target", targets.POLICIES)
def test_the_minimum_constant_of_the_paper_is_not_a_minimum(
    target: str, sigmoid: nn.Module, mnist_test: Dataset, right: Right
) -> None:
    images, labels = right(sigmoid, mnist_test, 6)
    images = torch.cat([images, images[:1]])
    labels = torch.cat([labels, labels[:1]])
    literal = szegedy_lbfgs(sigmoid, images, labels, target, paper_literal=True)
    ours = szegedy_lbfgs(sigmoid, images, labels, target)
    assert literal.success.all()
    assert (literal.l2 > 1.1 * ours.l2).all()
    assert (literal.c == LITERAL_C).all()
    assert literal.images.min() >= 0
    assert literal.images.max() <= 1


def test_paper_literal_leaves_images_classified_so_already(
    softmax: nn.Module, mnist_test: Dataset, right: Right
) -> None:
    images, labels = right(softmax, mnist_test, 2)
    aim = torch.stack([labels[0], (labels[1] + 1) % 10])
    found = szegedy_lbfgs(softmax, images, labels, aim, paper_literal=True)
    assert torch.equal(found.images[0], images[0])
    assert found.c.isnan().tolist() == [True, False]


def test_pixels_that_do_not_move_keep_their_bits(softmax: nn.Module, mnist_test: Dataset, right: Right) -> None:
    images, labels = right(softmax, mnist_test, 3)
    shifted = images * 0.7 + 0.1
    found = szegedy_lbfgs(lambda x: softmax((x - 0.1) / 0.7), shifted, labels, bounds=(0.1, 0.8))
    unused = (softmax[1].weight == 0).all(0).view(1, 28, 28)  # type: ignore[index]
    assert unused.any()
    assert torch.equal(found.images[:, unused], shifted[:, unused])


def test_the_constant_is_that_of_the_box(softmax: nn.Module, mnist_test: Dataset, right: Right) -> None:
    images, labels = right(softmax, mnist_test, 3)
    plain = szegedy_lbfgs(softmax, images, labels)
    scaled = szegedy_lbfgs(lambda x: softmax(x / 255), images * 255, labels, bounds=(0.0, 255.0))
    torch.testing.assert_close(scaled.c * 255**2, plain.c, rtol=0.05, atol=0)


def test_a_box_without_bounds_is_allowed(softmax: nn.Module, mnist_test: Dataset, right: Right) -> None:
    images, labels = right(softmax, mnist_test, 3)
    free = szegedy_lbfgs(softmax, images, labels, bounds=(-torch.inf, torch.inf))
    boxed = szegedy_lbfgs(softmax, images, labels)
    assert free.success.all()
    assert (free.l2 <= boxed.l2 * 1.005).all()
    assert free.images.min() < 0


@pytest.mark.parametrize("loss", ["cross-entropy", "margin"])
@pytest.mark.parametrize("norm", ["squared", "plain"])
def test_every_form_of_the_penalty_finds_examples_of_like_size(
    loss: Loss, norm: Norm, sigmoid: nn.Module, mnist_test: Dataset
) -> None:
    images, labels = mnist_test.images[:16], mnist_test.labels[:16]
    usual = szegedy_lbfgs(sigmoid, images, labels, "random")
    form = szegedy_lbfgs(sigmoid, images, labels, "random", loss=loss, norm=norm)
    assert form.success.all()
    assert 0.9 < float(form.l2.mean() / usual.l2.mean()) < 1.15


def test_scipy_solves_the_same_problems(sigmoid: nn.Module, mnist_test: Dataset) -> None:
    images, labels = mnist_test.images[:4], mnist_test.labels[:4]
    fast = szegedy_lbfgs(sigmoid, images, labels, "random")
    slow = szegedy_lbfgs(sigmoid, images, labels, "random", reference="scipy")
    assert slow.success.all()
    torch.testing.assert_close(fast.l2, slow.l2, rtol=0.01, atol=0)


@pytest.mark.parametrize("norm", ["squared", "plain"])
def test_compiled_loops_attack_as_the_array_operations_do(
    norm: Norm, sigmoid: nn.Module, mnist_test: Dataset, right: Right, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = right(sigmoid, mnist_test, 40)
    model, images = copy.deepcopy(sigmoid).double(), images.double()
    loops = szegedy_lbfgs(model, images, labels, norm=norm)
    monkeypatch.setattr(compiled, "fits", lambda *_: False)
    arrays = szegedy_lbfgs(model, images, labels, norm=norm)
    assert torch.equal(loops.success, arrays.success)
    torch.testing.assert_close(loops.l2, arrays.l2, rtol=1e-3, atol=0)
    assert abs(float(loops.l2.mean() / arrays.l2.mean()) - 1) < 1e-4


def test_inference_mode_and_images_that_require_gradients_change_nothing(
    softmax: nn.Module, mnist_test: Dataset, right: Right
) -> None:
    images, labels = right(softmax, mnist_test, 4)
    plain = szegedy_lbfgs(softmax, images, labels)
    graded = szegedy_lbfgs(softmax, images.clone().requires_grad_(), labels)
    with torch.inference_mode():
        inside = szegedy_lbfgs(softmax, images.clone(), labels.clone())
    assert torch.equal(plain.images, graded.images.detach())
    assert torch.equal(plain.images, inside.images)


def test_the_buffers_of_a_model_stay_its_own(softmax: nn.Module, mnist_test: Dataset, right: Right) -> None:
    images, labels = right(softmax, mnist_test, 3)
    kept: list[Tensor] = []

    class Keeps(torch.autograd.Function):
        @staticmethod
        def forward(context: object, x: Tensor) -> Tensor:  # noqa: ARG004
            return x.clone()

        @staticmethod
        def backward(context: object, gradient: Tensor) -> Tensor:  # noqa: ARG004
            kept.extend((gradient, gradient.clone()))
            return gradient

    szegedy_lbfgs(lambda x: softmax(Keeps.apply(x)), images, labels)
    assert kept
    assert all(torch.equal(given, copied) for given, copied in zip(kept[::2], kept[1::2], strict=True))


class Plateau(nn.Module):
    """Two classes of images [B, 6]: class 1 where all pixels are above 0.55, and flat wherever they are not."""

    def forward(self, x: Tensor) -> Tensor:
        beyond = (x.amin(1) - 0.55).relu()
        return torch.stack((torch.full_like(beyond, 0.1), 4 * beyond), 1)


@pytest.mark.parametrize("target", ["runner-up", "nearest"])
@pytest.mark.parametrize(("reference", "within"), [(None, 0.05), ("scipy", 0.1)])
def test_where_the_clean_gradient_leads_nowhere_the_search_starts_from_a_misclassified_image(
    target: str, reference: Literal["scipy"] | None, within: float
) -> None:
    images, labels = torch.linspace(0.1, 0.4, 5)[:, None].expand(5, 6).contiguous(), torch.zeros(5, dtype=torch.int64)
    found = szegedy_lbfgs(Plateau(), images, labels, target, reference=reference)
    assert found.success.all()
    # the boundary is where all pixels are 0.575
    torch.testing.assert_close(found.l2, (0.575 - images.double()).norm(dim=1), rtol=within, atol=0)


def test_the_nearest_reference_is_the_second_start() -> None:
    def islands(x: Tensor) -> Tensor:
        """Class 1 within 0.1 of two points of the square, flat elsewhere."""
        centres = torch.tensor([[0.3, 0.52], [0.9, 0.1]], dtype=x.dtype)
        within = (0.1 - (x[:, None] - centres).norm(dim=2).amin(1)).relu()
        return torch.stack((torch.full_like(within, 0.01), within), 1)

    image, label = torch.tensor([[0.3, 0.2]]), torch.tensor([0])
    assert not szegedy_lbfgs(islands, image, label, "runner-up").success
    for near in ([[0.9, 0.1]], [[0.9, 0.1], [0.3, 0.52]]):
        found = szegedy_lbfgs(islands, image, label, "runner-up", references=torch.tensor(near))
        distance = float((image - torch.tensor(near[-1])).norm()) - 0.09
        assert found.success
        assert float(found.l2) == pytest.approx(distance, rel=0.05)
    assert not szegedy_lbfgs(islands, image, label, "runner-up", references=image).success
    assert not szegedy_lbfgs(
        islands, image, label, "runner-up", references=torch.tensor(near), paper_literal=True
    ).success


def test_references_do_not_change_images_that_the_first_search_crosses(
    softmax: nn.Module, mnist_test: Dataset, mnist_train: Dataset, right: Right, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = right(softmax, mnist_test, 6)
    out_of_reach = images.flatten(1)[0]

    def walled(x: Tensor) -> Tensor:
        near = ((x.flatten(1) - out_of_reach).norm(dim=1, keepdim=True) < 4).to(x)
        return softmax(x) * (1 - near) + near * softmax(images[:1])

    given = szegedy_lbfgs(walled, images, labels, references=mnist_train.images[:64])
    assert given.success.all()
    assert given.l2[0] >= 4 - 1e-3
    with monkeypatch.context() as patch:
        patch.setattr(References, "nearest", lambda _self, clean, *_: torch.full((len(clean), 1), -1))
        alone = szegedy_lbfgs(walled, images, labels)
    assert alone.success.tolist() == [False] + 5 * [True]
    assert torch.equal(given.images[1:], alone.images[1:])
    assert torch.equal(given.evaluations[1:], alone.evaluations[1:])
    monkeypatch.setattr(References, "of", lambda *_: pytest.fail("no image needs them"))
    assert szegedy_lbfgs(softmax, images, labels).success.all()


@pytest.mark.parametrize(
    ("references", "message"),
    [
        (torch.zeros(2, 5), r"references have shape \(2, 5\); give images like those attacked: \(R, 6\)"),
        (torch.full((1, 6), 2.0), r"references span 2\.\.2, outside bounds"),
        ([1], "references are a list"),
    ],
)
@pytest.mark.parametrize("attack", [szegedy_lbfgs, minimum_norm])
def test_unusable_references(attack: Callable[..., Adversarial], references: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        attack(Plateau(), torch.zeros(1, 6), torch.tensor([0]), "nearest", references=references)
