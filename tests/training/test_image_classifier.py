"""An image classifier learns the same from any number of processes, and from where it was stopped."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from torch import Tensor

from advlab import data
from advlab.data import Dataset
from advlab.errors import UserError
from advlab.models import alexnet
from advlab.training import image_classifier
from advlab.training.image_classifier import Run, Settings, Tally

SETTINGS = Settings(
    recipe="2012", epochs=2, batch_size=15, learning_rate=0.02, weight_decay=5e-4, size=16, precision="float32", seed=3
)
CPU = torch.device("cpu")


def photos(count: int = 48) -> Dataset:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 4, (count,), generator=generator)
    images = torch.rand(count, 3, 20, 20, generator=generator)
    return Dataset("photos", "train", images, labels, torch.arange(count), tuple("abcd"))


def started(settings: Settings = SETTINGS, accumulate: int = 1) -> tuple[Run, torch.optim.Optimizer]:
    dataset = photos()
    rows, _ = image_classifier.share(len(dataset), 10, None)
    found = image_classifier.colours(dataset, rows)
    network = alexnet.classifier(found.mean, found.std, settings.size, classes=4, width=0.03)
    alexnet.initialise(network, settings.seed)
    run = Run(network, dataset, rows, settings, found.axes, CPU, accumulate)
    return run, image_classifier.optimiser(network, settings)


def learnt(settings: Settings = SETTINGS, accumulate: int = 1) -> dict[str, Any]:
    """Losses of all steps and the final weights; every process gives the same."""
    run, optimiser = started(settings, accumulate)
    tally = Tally(CPU)
    told = [tally.take() for _ in run.train(optimiser, tally)]
    return {"told": told, "weights": flat(run.network), "judged": run.evaluate(run.dataset, run.rows)}


def flat(network: torch.nn.Module) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in network.parameters()])


def in_processes() -> list[dict[str, Any]]:
    return [learnt(accumulate=accumulate) for accumulate in (1, 3)]


def test_processes_and_parts_of_batches_change_nothing_but_rounding(tmp_path: Path) -> None:
    """Dropout, crops and colours included; 15 images cannot be halved, so shares are of different size."""
    alone = learnt()
    assert [seen for _, _, seen in alone["told"]] == [15.0] * 4  # 38 rows: two whole batches an epoch
    for answers in processes.run(in_processes, 2, tmp_path):
        for found in answers:
            torch.testing.assert_close(torch.tensor(found["told"]), torch.tensor(alone["told"]), rtol=1e-4, atol=1e-3)
            torch.testing.assert_close(found["weights"], alone["weights"], rtol=1e-3, atol=1e-5)
            assert found["judged"][1:] == alone["judged"][1:]


def test_a_run_goes_on_in_the_middle_of_an_epoch() -> None:
    whole = learnt()
    run, optimiser = started()
    tally = Tally(CPU)
    for step in run.train(optimiser, tally):
        if step == 2:
            break
    state, moments = run.network.state_dict(), optimiser.state_dict()
    again, other = started(replace(SETTINGS, seed=3))
    again.network.load_state_dict(state)
    other.load_state_dict(moments)
    assert list(again.train(other, Tally(CPU), first=3)) == [3]
    assert torch.equal(flat(again.network), whole["weights"])


def test_as_a_trainer_of_recipes_it_gives_the_same_weights() -> None:
    run, _ = started()
    given = {name: getattr(SETTINGS, name) for name in Settings.__dataclass_fields__ if name != "seed"}
    report = image_classifier.fit(run.network, photos(), seed=3, device=CPU, held_out=10, **given)
    assert torch.equal(flat(run.network), learnt()["weights"])
    assert report["iterations"] == 4
    assert not run.network.training


def test_it_learns_to_tell_classes_apart() -> None:
    settings = replace(SETTINGS, recipe="modern", epochs=8, learning_rate=3e-3)
    dataset = photos()
    dataset.images[torch.arange(len(dataset)), dataset.labels % 3] = 0.0  # one colour says nearly all
    run, optimiser = started(settings)
    run = replace(run, dataset=dataset)
    before, *_ = run.evaluate(dataset, run.rows)
    list(run.train(optimiser, Tally(CPU)))
    assert run.evaluate(dataset, run.rows)[0] < before


@pytest.mark.parametrize("size", [16, 20])
def test_crops_are_parts_of_the_image_or_its_mirror(size: int) -> None:
    dataset = photos(40)
    keys = torch.arange(40)
    crops = image_classifier.augmented(dataset.images, keys, size, None)
    assert crops.shape == (40, 3, size, size)
    border = size // 8 if size == 20 else 0
    padded = torch.nn.functional.pad(dataset.images, (border,) * 4)
    windows = padded.unfold(2, size, 1).unfold(3, size, 1)[:, 0]
    mirrored = 0
    for crop, places in zip(crops[:, 0], windows, strict=True):
        straight = (places == crop).all(3).all(2).any()
        assert straight or (places == crop.flip(1)).all(3).all(2).any()
        mirrored += not straight
    assert 8 < mirrored < 32
    assert torch.equal(crops[7:9], image_classifier.augmented(dataset.images[7:9], keys[7:9], size, None))


def test_colours_shift_along_the_principal_components() -> None:
    dataset = photos()
    axes = image_classifier.colours(dataset, torch.arange(len(dataset))).axes
    keys = torch.arange(len(dataset))
    plain = image_classifier.augmented(dataset.images, keys, 16, None)
    shift = image_classifier.augmented(dataset.images, keys, 16, axes) - plain
    assert shift.amax((2, 3)).sub(shift.amin((2, 3))).max() < 1e-6
    alpha = torch.linalg.solve(axes, shift[:, :, 0, 0].T)
    assert 0.07 < alpha.std() < 0.13


def test_rates_follow_the_recipe() -> None:
    rates = [image_classifier.rate(SETTINGS, step, 90) for step in (0, 29, 30, 60, 80, 89)]
    assert rates == pytest.approx([0.02, 0.02, 0.002, 2e-4, 2e-5, 2e-5])
    modern = replace(SETTINGS, recipe="modern")
    course = [image_classifier.rate(modern, step, 100) for step in range(100)]
    assert max(course) == pytest.approx(0.02)
    assert course.index(max(course)) in (4, 5)
    assert course[0] < course[1]
    assert course[-1] < 1e-4


def test_parts_of_the_training_set_do_not_overlap() -> None:
    rows, held_out = image_classifier.share(100, 20, 50)
    assert (len(rows), len(held_out), len(set(rows.tolist()) | set(held_out.tolist()))) == (50, 20, 70)
    with pytest.raises(UserError, match="`examples` 90 and `held_out` 20 are impossible together: there are 100"):
        image_classifier.share(100, 20, 90)
    with pytest.raises(UserError, match="`held_out` 100"):
        image_classifier.share(100, 100, None)


def test_operations_are_counted() -> None:
    network = alexnet.classifier([0.5] * 3, [0.2] * 3, 227)
    # 1.13 billion multiplications and additions forwards, by the shapes of Table 5
    assert image_classifier.training_flops(network.eval(), 227) == 3 * 2 * 1_135_256_096
    assert image_classifier.product_flops(CPU, "float32") > 1e8


def test_cifar_photos_have_the_published_colours() -> None:
    dataset = data.load("cifar10", "test").subset(slice(2000))
    found = image_classifier.colours(dataset, torch.arange(2000))
    assert found.mean == pytest.approx([0.49, 0.48, 0.45], abs=0.02)
    assert math.isclose(found.axes.norm(dim=0).sum().item(), sum(s**2 for s in found.std), rel_tol=1e-3)
