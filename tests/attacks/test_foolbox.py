"""Foolbox's attacks under our contract, and ours under Foolbox's."""

from __future__ import annotations

import foolbox
import pytest
import torch
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
        ("foolbox:LinfPGD@big", "'big' is no size"),
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
