"""A network split by rows computes what the whole one does, in real processes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from advlab.attacks import minimum_norm
from advlab.data import Dataset
from advlab.engine.launcher import one_process
from advlab.errors import UserError
from advlab.models.quocnet import BinaryClassifier, QuocNet, preset
from advlab.training import distributed_checkpoint, quocnet_parallel, row_parallel
from advlab.training.quocnet_parallel import Parallel
from advlab.training.rica import Settings, train

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from traffic import Traffic

SHAPE = preset("quocnet-tiny")
SPARSITY = 0.1
SPREADS = [("spatial", 1, 4), ("spatial", 2, 2), ("spatial", 4, 1), ("fsdp", 4, 1)]
"""(kind, data, space) on four processes."""


def photos(count: int = 4) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def measures(network: Any, images: Tensor, own: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """Loss, gradients and features; ``own`` is the part of the batch that this process sees.

    In float64 every stage learns from its own cost, in float32 all jointly.
    """
    images, own = images.to(dtype), own.to(dtype)
    loss = network.loss(network.objectives(own, joint=dtype == torch.float32), SPARSITY)
    loss.backward()
    leaf = images.clone().requires_grad_()
    features = network(leaf)
    (to_images,) = torch.autograd.grad(features.square().sum(), leaf)
    return {"loss": loss.detach(), "features": features.detach(), "to_images": to_images}


def whole(dtype: torch.dtype) -> dict[str, Tensor]:
    network = QuocNet(SHAPE, seed=3).to(dtype)
    found = measures(network, photos(), photos(), dtype)
    return found | {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}


def full(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def spread(kind: Any, data: int, space: int, dtype: torch.dtype) -> Parallel:
    made = quocnet_parallel.build(kind, SHAPE, data=data, space=space, seed=3, device=torch.device("cpu"))
    made.network.to(dtype)
    return made


def learnt(made: Parallel) -> dict[str, Tensor]:
    """The weights after two steps."""
    settings = Settings(steps=2, batch_size=4, learning_rate=0.02, sparsity=SPARSITY, joint=False, seed=0)
    network = made.network
    network.fit_whitening(photos())
    dataset = Dataset("noise", "train", photos(8), torch.zeros(8, dtype=torch.long), torch.arange(8), ("none",))
    moving = quocnet_parallel.optimiser("adam-mini", network, settings.learning_rate)
    for _ in train(made, moving, dataset, settings, device=torch.device("cpu")):
        pass
    return {name: full(weight.detach()) for name, weight in network.named_parameters()}


def in_processes(dtypes: list[torch.dtype], saved: Path) -> list[dict[str, Any]]:
    answers = []
    for dtype in dtypes:
        for kind, data, space in SPREADS:
            made = spread(kind, data, space, dtype)
            network = made.network
            held = sum(parameter.to_local().numel() for parameter in network.parameters())
            found = measures(network, photos(), made.part(photos()), dtype)
            made.average_gradients()
            found["loss"] = made.total(found["loss"])
            found |= {name: full(weight.grad) for name, weight in network.named_parameters()}
            answers.append({"spread": (kind, data, space), "dtype": dtype, "held": held, **found})
    # A step, then a checkpoint of four processes, and what it ought to give.
    made = spread("spatial", 1, 4, torch.float32)
    optimiser = quocnet_parallel.optimiser("adam-mini", made.network, 0.01)
    made.network.loss(made.network.objectives(photos()), SPARSITY).backward()
    optimiser.step()
    quocnet_parallel.save(saved, made.network, optimiser, step=7)
    after = [learnt(spread(*each, torch.float32)) for each in SPREADS]
    answers.append({"features": made.network(photos()).detach(), "attack": attack(made.network), "learnt": after})
    return answers


def attack(network: Any) -> Tensor:
    weight = torch.randn(network.num_features, generator=torch.Generator().manual_seed(2))
    classifier = BinaryClassifier(network, weight, torch.zeros(()))
    images = photos()
    with torch.no_grad():
        labels = classifier(images).argmax(1)
    found = minimum_norm(classifier, images, labels, max_evaluations=24)
    assert bool(found.success.all())
    return found.images


def reloaded(saved: Path, again: Path, kind: Any, data: int, space: int) -> dict[str, Any]:
    """Read a checkpoint with another number of processes, write it again, take a step, and attack."""
    made = quocnet_parallel.build(kind, SHAPE, data=data, space=space, seed=99, device=torch.device("cpu"))
    optimiser = quocnet_parallel.optimiser("adam-mini", made.network, 0.01)
    step = quocnet_parallel.load(saved, made.network, optimiser)
    features = made.network(photos()).detach()
    quocnet_parallel.save(again, made.network, optimiser, step)
    with Traffic() as traffic:
        made.network.loss(made.network.objectives(made.part(photos())), SPARSITY).backward()
    made.average_gradients()
    optimiser.step()
    after = made.network(photos()).detach()
    attacked = attack(made.network.requires_grad_(False))
    sent = {"total": traffic.total, "calls": dict(traffic.calls)}
    return {"step": step, "features": features, "after": after, "attack": attacked, "sent": sent}


def in_two(folder: Path) -> list[dict[str, Any]]:
    """A checkpoint of four processes by rows, then what these two wrote by FSDP."""
    return [
        reloaded(folder / "saved", folder / "again", "spatial", 1, 2),
        reloaded(folder / "again", folder / "third", "fsdp", 2, 1),
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def four(folder: Path) -> list[list[dict[str, Any]]]:
    """The answers of four processes."""
    return processes.run(in_processes, 4, folder / "four", [torch.float64, torch.float32], folder / "saved")


@pytest.fixture(scope="module")
def two(four: list[list[dict[str, Any]]], folder: Path) -> list[list[dict[str, Any]]]:
    """The answers of two processes that go on from what the four wrote."""
    assert len(four) == 4
    return processes.run(in_two, 2, folder / "two", folder)


def test_loss_and_gradients_are_those_of_one_process(four: list[list[dict[str, Any]]]) -> None:
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        expected = whole(dtype)
        for found in (found for rank in range(4) for found in four[rank][:-1] if found["dtype"] == dtype):
            for name, value in expected.items():
                difference = (found[name] - value).norm() / value.norm()
                assert difference < tolerance, (found["spread"], dtype, name)


def test_steps_lead_to_the_weights_of_one_process(four: list[list[dict[str, Any]]]) -> None:
    """Two steps of the optimiser with filters brought back to their lengths after each, in every layout."""
    with one_process("gloo"):
        expected = learnt(spread("spatial", 1, 1, torch.float32))
    fresh = QuocNet(SHAPE, seed=3)
    for (name, weight), stage in zip(expected.items(), fresh.chain(), strict=True):
        assert (weight - stage.local.weight).norm() > 0.02 * weight.norm()
        lengths = weight.norm(dim=3)
        torch.testing.assert_close(lengths, lengths[:1, :1, :1].expand_as(lengths))
        for answers in four:
            for found, kind in zip(answers[-1]["learnt"], SPREADS, strict=True):
                assert (found[name] - weight).norm() < 1e-4 * weight.norm(), (kind, name)


def test_processes_agree_to_the_bit_on_what_an_attack_sees(four: list[list[dict[str, Any]]]) -> None:
    """Its decisions must be the same everywhere, or the processes would wait for one another for ever."""
    for answers in zip(*four, strict=True):
        if answers[0].get("spread", ("spatial", 1, 4)) == ("spatial", 1, 4):
            for name in ("features", "to_images", "attack"):
                if name in answers[0]:
                    assert all(torch.equal(answer[name], answers[0][name]) for answer in answers)


def test_each_process_holds_its_share_of_the_weights(four: list[list[dict[str, Any]]]) -> None:
    count = sum(weight.numel() for weight in QuocNet(SHAPE).parameters())
    for number, (_kind, data, space) in enumerate(SPREADS):
        held = [answers[number]["held"] for answers in four]
        ways = 4 if _kind == "fsdp" else space
        assert sum(held) == count * 4 // ways
        assert max(held) < 1.1 * count / ways, (data, space)


def test_checkpoints_are_read_by_fewer_processes(
    four: list[list[dict[str, Any]]], two: list[list[dict[str, Any]]], folder: Path
) -> None:
    """Written by four, read by two, by rows and by FSDP; theirs read by one alone."""
    expected = four[0][-1]["features"]
    alone = QuocNet(SHAPE, seed=98)
    optimiser = quocnet_parallel.optimiser("adam-mini", alone, 0.01)
    assert quocnet_parallel.load(folder / "third", alone, optimiser) == 7
    torch.testing.assert_close(alone(photos()).detach(), expected, rtol=1e-5, atol=1e-6)
    alone.loss(alone.objectives(photos()), SPARSITY).backward()
    optimiser.step()
    for answers in two:
        for answer, first in zip(answers, two[0], strict=True):
            assert answer["step"] == 7
            torch.testing.assert_close(answer["features"], expected, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(answer["after"], alone(photos()).detach(), rtol=1e-3, atol=1e-4)
            assert torch.equal(answer["attack"], first["attack"])


def test_halos_are_less_than_weights(two: list[list[dict[str, Any]]]) -> None:
    weights = 4 * sum(weight.numel() for weight in QuocNet(SHAPE).parameters())
    for by_rows, by_weights in two:
        assert set(by_rows["sent"]["calls"]) == {"send"}
        # gathered forwards and backwards, gradients scattered: half of all by each of two
        assert by_weights["sent"]["total"] == pytest.approx(3 * weights / 2, rel=0.1)
        assert by_rows["sent"]["total"] < 0.5 * by_weights["sent"]["total"]


@pytest.mark.usefixtures("two")
def test_the_weights_of_a_checkpoint_stay_to_the_bit(folder: Path) -> None:
    first, again = QuocNet(SHAPE, seed=5), QuocNet(SHAPE, seed=6)
    distributed_checkpoint.read({"model": first.state_dict()}, folder / "saved")
    distributed_checkpoint.read({"model": again.state_dict()}, folder / "third")
    for one, other in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_attacks_go_through_all_processes(four: list[list[dict[str, Any]]], folder: Path) -> None:
    alone = QuocNet(SHAPE)
    distributed_checkpoint.read({"model": alone.state_dict()}, folder / "saved")
    torch.testing.assert_close(four[0][-1]["attack"], attack(alone), rtol=0, atol=2e-3)


def test_what_does_not_fit_is_one_sentence(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        with pytest.raises(UserError, match="2 × `space` 2 needs 4 processes, and there are 1; start as many"):
            quocnet_parallel.build("spatial", SHAPE, data=2, space=2, seed=0, device=torch.device("cpu"))
        with pytest.raises(UserError, match="fsdp only splits batches; give `data_parallel` 2 and `space` 1"):
            quocnet_parallel.build("fsdp", SHAPE, data=1, space=2, seed=0, device=torch.device("cpu"))
    finally:
        dist.destroy_process_group()


def test_rows_are_dealt_out_as_dtensor_does() -> None:
    assert row_parallel.shares(11, 4) == [(0, 3), (3, 6), (6, 9), (9, 11)]
    assert [last - first for first, last in row_parallel.shares(9, 4)] == [*map(len, torch.empty(9).chunk(4)), 0]
