"""The search of minimum_norm beyond the clean image's neighbourhood: references, displaced starts, larger budgets."""

import pytest
import torch
from torch import Tensor, nn

from advlab.attacks import minimum_norm
from advlab.attacks.criterion import Criterion
from advlab.attacks.minimum_norm.restarts import CYCLE, DISPLACED, PATIENCE, REFERENCE, Restarts, displacement
from advlab.attacks.model import PROBED, Classifier
from advlab.attacks.references import BLANKS, BLOBS, NOISES, References, synthetic
from advlab.attacks.result import Ended
from advlab.errors import UserError

SYNTHETIC = len(BLANKS) + NOISES + BLOBS


def kinked(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(2)
    layers = nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 30), nn.ReLU()
    return nn.Sequential(*layers, nn.Linear(30, 5)).to(dtype)


def pixels(count: int, seed: int, *shape: int) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plateau(x: Tensor) -> Tensor:
    """Class 1 where the mean is above 0.7; below it, nothing depends on the pixels."""
    above = (x.flatten(1).mean(1) - 0.7).clamp_min(0)
    return torch.stack((0.1 + 0 * above, above), 1)


def thresholds(x: Tensor) -> Tensor:
    """What hardening teaches: pixels count from 0.4 on only. Two groups of pixels vote for two classes."""
    seen = (x.flatten(1) - 0.4).clamp_min(0)
    return torch.stack((seen[:, :8].sum(1) + 0.05, 2 * seen[:, 8:].sum(1)), 1)


def test_a_larger_budget_is_never_worse() -> None:
    model, images, references = kinked(), pixels(24, 0, 1, 8, 8), pixels(60, 1, 1, 8, 8)
    labels = model(images).argmax(1)
    for given in (None, references):
        for target in ("nearest", "runner-up"):
            last = torch.full((24,), torch.inf, dtype=torch.float64)
            for budget in (96, 150, 220, 400, 1000):
                found = minimum_norm(model, images, labels, target, max_evaluations=budget, references=given)
                distance = found.l2.masked_fill(~found.success, torch.inf)
                assert (distance <= last).all()
                assert (found.evaluations <= budget).all()
                last = distance


def test_rounds_find_closer_images_on_networks_with_kinks() -> None:
    model, images = kinked(), pixels(60, 3, 1, 8, 8)
    labels = model(images).argmax(1)
    few, many = (minimum_norm(model, images, labels, max_evaluations=n).l2 for n in (96, 600))
    assert many.mean() < 0.995 * few.mean()


@pytest.mark.parametrize("budget", [40, 96, 300])
@pytest.mark.parametrize("target", ["nearest", "runner-up"])
def test_plateaus_are_left_by_way_of_references(budget: int, target: str) -> None:
    images, labels = 0.2 * pixels(3, 0, 1, 6, 6), torch.zeros(3, dtype=torch.int64)
    found = minimum_norm(plateau, images, labels, target, max_evaluations=budget)
    assert found.success.all()
    assert (found.ended == Ended.REFERENCE).all()
    optimum = 6 * (0.8 - images.flatten(1).mean(1))  # every pixel moves alike: 0.1 above the plateau's edge
    assert (found.l2 < 1.5 * optimum).all()


@pytest.mark.parametrize("budget", [96, 500])
def test_given_references_show_the_way_where_clean_gradients_do_not(budget: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.zeros(20, 1, 4, 4, dtype=torch.float64)
    images[:, :, :2] = 0.3 * torch.rand(20, 1, 2, 4, generator=generator, dtype=torch.float64)
    labels = torch.zeros(20, dtype=torch.int64)
    references = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    references[0, 0, 3, 3] = 1.0
    found = minimum_norm(thresholds, images, labels, max_evaluations=budget, references=references)
    assert found.success.all()
    torch.testing.assert_close(found.l2, torch.full_like(found.l2, 0.425), rtol=1e-3, atol=0)


def test_rows_depend_on_themselves_and_the_references_alone() -> None:
    model, images, references = kinked(), pixels(12, 5, 1, 8, 8), pixels(40, 6, 1, 8, 8)
    labels = model(images).argmax(1)
    options = {"max_evaluations": 300, "references": references}
    together = minimum_norm(model, images, labels, **options)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    apart = minimum_norm(model, images[order], labels[order], batch_size=5, **options)
    torch.testing.assert_close(apart.l2, together.l2[order], rtol=1e-3, atol=0)  # kinks amplify rounding


@pytest.mark.parametrize("budget", [96, 150, 400])
def test_every_forward_pass_is_counted(budget: int) -> None:
    model, images, references = kinked(), pixels(8, 7, 1, 8, 8), pixels(10, 8, 1, 8, 8)
    labels, rows = model(images).argmax(1), 0

    def counted(x: Tensor) -> Tensor:
        nonlocal rows
        rows += len(x)
        return model(x)

    found = minimum_norm(counted, images, labels, max_evaluations=budget, references=references)
    looked_at = len(references) + SYNTHETIC
    assert rows - looked_at - PROBED - len(images) <= int(found.evaluations.sum())
    assert (found.evaluations <= budget).all()


def test_how_each_search_ended() -> None:
    torch.manual_seed(0)
    smooth = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Sigmoid(), nn.Linear(12, 3, bias=False)).double()
    smooth[1].weight.data.mul_(8)
    images = pixels(6, 9, 1, 4, 4)
    labels = smooth(images).argmax(1)
    labels[0] = (labels[0] + 1) % 3
    long = minimum_norm(smooth, images, labels, max_evaluations=5000)
    assert long.ended[0] == Ended.UNCHANGED
    assert ((long.ended[1:] == Ended.CONVERGED) | (long.ended[1:] == Ended.REFERENCE)).all()
    assert (long.evaluations < 2000).all()
    model, images = kinked(), pixels(8, 11, 1, 8, 8)
    short = minimum_norm(model, images, model(images).argmax(1), max_evaluations=24)
    assert short.success.any()
    assert (short.ended[short.success] == Ended.BUDGET).all()
    dead = minimum_norm(lambda x: model(x) * 0 + torch.tensor([1.0, 0, 0, 0, 0]), images, torch.zeros(8).long())
    assert (dead.ended == Ended.FAILED).all()


@pytest.mark.parametrize(
    ("references", "message"),
    [
        (torch.rand(3, 1, 4, 5), r"\(R, 1, 4, 4\)"),
        ("train", "references are a str"),
        (2 * torch.ones(2, 1, 4, 4), "references span 2..2"),
        (torch.full((2, 1, 4, 4), torch.nan), "NaN"),
    ],
)
def test_references_that_cannot_be_used_are_named(references: object, message: str) -> None:
    images = pixels(2, 0, 1, 4, 4)
    with pytest.raises(UserError, match=message):
        minimum_norm(thresholds, images, torch.zeros(2, dtype=torch.int64), references=references)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7), (20,)])
def test_synthetic_references_fill_the_box_and_never_change(shape: tuple[int, ...]) -> None:
    images = torch.zeros(2, *shape)
    made = synthetic(images, (-1.0, 3.0))
    assert made.shape == (SYNTHETIC, *shape)
    assert torch.equal(made, synthetic(images, (-1.0, 3.0)))
    assert float(made.min()) == -1.0
    assert float(made.max()) == 3.0


def test_nearest_references_meet_the_criterion() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4)).double()
    images, given = pixels(5, 1, 1, 4, 4), pixels(30, 2, 1, 4, 4)
    labels = model(images).argmax(1)
    references = References.of(Classifier(model, images), images, given, (0.0, 1.0))
    answers = model(references.images.view(-1, 1, 4, 4)).argmax(1)
    for criterion in (Criterion(labels), Criterion(labels, (labels + 1) % 4)):
        nearest = references.nearest(images.flatten(1), criterion, torch.zeros(5, dtype=torch.float64))
        for row in range(5):
            found = nearest[row][nearest[row] >= 0]
            wanted = answers != labels[row] if criterion.target is None else answers == criterion.target[row]
            assert wanted[found].all()
            assert len(found) == min(nearest.shape[1], int(wanted.sum()))
            distances = (references.images[found] - images[row].flatten()).norm(dim=1)
            assert (distances.diff() >= 0).all()


def test_rounds_take_turns_and_stop_when_they_no_longer_pay() -> None:
    tried, row = Restarts(torch.tensor([[3, 5], [4, -1]]), torch.zeros(2, dtype=torch.int64)), torch.arange(2)
    starts = []
    for turn in range(PATIENCE):
        place = tried.choose(row, torch.tensor([True, False]))
        starts.append(place.tolist())
        for one in row:
            gain = 0.5 if turn == 0 else 1.0
            tried.note(one[None], CYCLE[int(place[one])], torch.ones(1), torch.full((1,), gain))
        if turn == 0:
            assert tried.by_reference.all()
    assert [first for first, _ in starts[:5]] == list(range(len(CYCLE)))
    assert [second for _, second in starts[:3]] == [REFERENCE, DISPLACED, DISPLACED]
    assert starts[5][0] == DISPLACED  # both references are used up
    assert tried.going(row).all()
    tried.note(row, CYCLE[DISPLACED], torch.ones(2), torch.ones(2))
    assert not tried.going(row).any()


def test_displacements_are_unit_vectors_that_differ_by_turn() -> None:
    like = torch.zeros(1, 50)
    one, other = displacement(0, like), displacement(1, like)
    torch.testing.assert_close(one.norm(), torch.tensor(1.0))
    assert torch.equal(one, displacement(0, like))
    assert float((one @ other).abs()) < 0.5
