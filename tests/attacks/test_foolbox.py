"""Foolbox's attacks under our contract, and ours under Foolbox's."""

from __future__ import annotations

import foolbox
import pytest
import torch
from foolbox.attacks import BoundaryAttack
from foolbox.criteria import TargetedMisclassification
from torch import Tensor, nn

from advlab.attacks import registry
from advlab.attacks.foolbox import LBFGSAttack, MinimumNormAttack
from advlab.errors import UserError


@pytest.fixture(scope="module")
def problem() -> tuple[nn.Module, Tensor, Tensor]:
    """A linear classifier of three classes, and twelve images it reads as labelled."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(20, 3)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(3, 20, generator=generator))
    images = torch.rand(12, 1, 4, 5, generator=generator)
    return model, images, model(images).argmax(1)


@pytest.mark.parametrize("name", ["foolbox:DDNAttack", "foolbox:L2PGD@2.0", "foolbox:L2DeepFoolAttack"])
@pytest.mark.parametrize("target", ["nearest", "random"])
def test_their_attacks_keep_our_contract(name: str, target: str, problem: tuple[nn.Module, Tensor, Tensor]) -> None:
    if target == "random" and "DeepFool" in name:
        pytest.skip("DeepFool takes no targets")
    model, images, labels = problem
    found = registry.resolve(name)(model, images, labels, target, (0.0, 1.0), seed=0, index=None)
    prediction = model(found.images).argmax(1)
    expected = prediction != labels if target == "nearest" else prediction == found.target
    assert torch.equal(found.success, expected)
    assert found.success.any()
    assert found.images.min() >= 0
    assert found.images.max() <= 1
    assert (found.evaluations > 0).all()


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("foolbox:NoSuchAttack", "no attack 'NoSuchAttack'"),
        ("foolbox:LinfPGD", "needs a size"),
        ("foolbox:LinfPGD@big", "'big' is not a size"),
    ],
)
def test_refusals(name: str, named: str, problem: tuple[nn.Module, Tensor, Tensor]) -> None:
    with pytest.raises(UserError, match=named):
        registry.resolve(name)(*problem, "nearest", (0.0, 1.0), seed=0, index=None)


@pytest.mark.parametrize("attack", [LBFGSAttack(), MinimumNormAttack(max_evaluations=60)], ids=repr)
def test_ours_run_under_foolbox(
    attack: LBFGSAttack | MinimumNormAttack, problem: tuple[nn.Module, Tensor, Tensor]
) -> None:
    model, images, labels = problem
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    raw, (within, unlimited), success = attack(wrapped, images, labels, epsilons=[0.01, None])
    assert success[1].all()
    assert not success[0].all()
    assert (within - images).flatten(1).norm(dim=1).max() <= 0.01 + 1e-6
    assert torch.equal(raw[1], unlimited)
    ours = registry.resolve("minimum-norm")(model, images, labels, "nearest", (0.0, 1.0), seed=0, index=None)
    distance = (unlimited - images).flatten(1).norm(dim=1).double()
    torch.testing.assert_close(distance, ours.l2, rtol=2e-2, atol=1e-3)

    classes = (labels + 1) % 3
    _, aimed, success = attack(wrapped, images, TargetedMisclassification(classes), epsilons=None)
    assert success.all()
    assert torch.equal(model(aimed).argmax(1), classes)


@pytest.mark.parametrize(
    ("name", "target", "named"),
    [
        (
            "foolbox:LinfFastGradientAttack@0.1",
            "random",
            "does not take the target 'random'; use it with the target nearest",
        ),
        ("foolbox:NewtonFoolAttack", "all", "does not take the target 'all'"),
        ("foolbox:GenAttack@0.3", "nearest", "does not take the target 'nearest'; use it with a target"),
        ("foolbox:VirtualAdversarialAttack@0.3", None, r"needs arguments \(steps\)"),
    ],
)
def test_what_an_attack_cannot_do_is_said_beforehand(name: str, target: str | None, named: str) -> None:
    with pytest.raises(UserError, match=named):
        registry.resolve(name, target)


@pytest.mark.parametrize("name", ["LinfFastGradientAttack@0.1", "DDNAttack", "HopSkipJumpAttack", "L2DeepFoolAttack"])
def test_what_an_attack_can_do_is_not_refused(name: str) -> None:
    registry.resolve(f"foolbox:{name}", "nearest")


class _Short(BoundaryAttack):
    """Fewer steps than the default of 25,000."""

    def __init__(self) -> None:
        super().__init__(steps=30)


def test_an_image_without_a_start_fails_alone(
    problem: tuple[nn.Module, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foolbox.attacks, "BoundaryAttack", _Short)
    model, images, labels = problem
    images, labels = images[:4], labels[:4]

    def blocked(x: Tensor) -> Tensor:
        return torch.cat([model(x), torch.full((len(x), 1), -50.0)], 1)

    target = torch.where(torch.arange(4) % 2 == 0, (labels + 1) % 3, 3)
    found = registry.resolve("foolbox:BoundaryAttack")(blocked, images, labels, target, (0.0, 1.0), seed=0, index=None)
    assert not found.success[target == 3].any()
    assert found.success[target < 3].any()
    assert torch.equal(found.success, blocked(found.images).argmax(1) == target)
    assert found.images.isfinite().all()


def test_what_foolbox_refuses_is_one_sentence(problem: tuple[nn.Module, Tensor, Tensor]) -> None:
    with pytest.raises(UserError, match="'foolbox:BinarizationRefinementAttack' cannot attack these images"):
        registry.resolve("foolbox:BinarizationRefinementAttack")(*problem, "nearest", (0.0, 1.0), seed=0, index=None)


def test_the_mode_of_the_model_is_kept(problem: tuple[nn.Module, Tensor, Tensor]) -> None:
    model = problem[0].train()
    registry.resolve("foolbox:DDNAttack")(model, *problem[1:], "nearest", (0.0, 1.0), seed=0, index=None)
    assert model.training
    model.eval()
