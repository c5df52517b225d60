"""Features of a layer and the images that stimulate directions most."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
import torch
from torch import nn

from advlab.analysis.features import Features, Top, stimulation, thumbnails
from advlab.errors import UserError


def test_streaming_gives_the_top_of_all() -> None:
    generator = np.random.default_rng(0)
    scores = generator.integers(0, 6, (97, 5)).astype(np.float32)  # with ties
    pieces = np.array_split(np.arange(97), 13)
    whole = Top.of(scores, np.arange(97), 9)
    streamed = reduce(
        Top.merge, [Top.of(scores[rows], rows, 9) for rows in generator.permutation(np.array(pieces, object))]
    )
    assert (streamed.index == whole.index).all()
    assert (streamed.score == whole.score).all()
    for direction in range(5):
        expected = sorted(range(97), key=lambda row: (-scores[row, direction], row))[:9]
        assert whole.index[direction].tolist() == expected


def test_fewer_images_than_places() -> None:
    few = Top.of(np.array([[1.0], [2.0]], np.float32), np.array([4, 5]), 3)
    assert few.index.tolist() == [[5, 4, -1]]
    assert few.merge(Top.of(np.array([[0.5]], np.float32), np.array([9]), 3)).index.tolist() == [[5, 4, 9]]


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 36, 7), nn.ReLU(), nn.Linear(7, 4))


def test_the_default_layer_is_what_the_classifier_sees(model: nn.Sequential) -> None:
    images = torch.rand(5, 1, 8, 8)
    ((features, logits),) = Features(model, "").batches(images)
    torch.testing.assert_close(features[:, :, 0], model[:5](images))
    torch.testing.assert_close(logits, model(images))


def test_a_spatial_unit_is_a_channel_wherever_it_responds_most(model: nn.Sequential) -> None:
    images = torch.rand(5, 1, 8, 8)
    ((features, _),) = Features(model, "1").batches(images)
    assert features.shape == (5, 3, 36)
    direction = torch.tensor([[0.0, 1.0, 0.0], [0.6, 0.0, -0.8]])
    maps = model[:2](images)
    expected = torch.stack([maps[:, 1].amax((1, 2)), (0.6 * maps[:, 0] - 0.8 * maps[:, 2]).amax((1, 2))], 1)
    torch.testing.assert_close(stimulation(features, direction), expected)


def test_thumbnails_are_grey_and_small() -> None:
    assert thumbnails(torch.rand(2, 3, 40, 40)).shape == (2, 256)
    torch.testing.assert_close(thumbnails(torch.full((1, 3, 9, 9), 0.25)), torch.full((1, 256), 0.25))


def test_mistakes_are_reported(model: nn.Sequential) -> None:
    with pytest.raises(UserError, match=r"no layer 'hidden'; choose among 0, 1, 2"):
        Features(model, "hidden")
    with pytest.raises(UserError, match="no linear layer"):
        Features(nn.Conv2d(1, 1, 3), "")
