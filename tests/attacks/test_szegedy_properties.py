"""The paper's attack on models, boxes and images of any kind: defined results, or one clear error."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from advlab.attacks.szegedy import szegedy_lbfgs


def network(classes: int, pixels: int, dtype: torch.dtype, kind: str, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    sizes = {"linear": [pixels, classes]}.get(kind, [pixels, 7, classes])
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in itertools.pairwise(sizes):
        layer = nn.Linear(inputs, outputs)
        with torch.no_grad():
            layer.weight.copy_(3 / inputs**0.5 * torch.randn(outputs, inputs, generator=generator))
            layer.bias.copy_(0.1 * torch.randn(outputs, generator=generator))
        layers += [layer, {"relu": nn.ReLU(), "sigmoid": nn.Sigmoid()}.get(kind, nn.Identity())]
    return nn.Sequential(*layers[:-1]).to(dtype)


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    num=st.integers(1, 4),
    pixels=st.integers(1, 12),
    classes=st.integers(2, 4),
    kind=st.sampled_from(["linear", "sigmoid", "relu"]),
    low=st.sampled_from([0.0, -1.0, -3.5]),
    width=st.sampled_from([1.0, 0.25, 255.0]),
    double=st.booleans(),
    target=st.sampled_from(["random", "nearest", "runner-up", "least-likely"]),
    loss=st.sampled_from(["cross-entropy", "margin"]),
    norm=st.sampled_from(["squared", "plain"]),
)
def test_every_result_is_defined(
    seed: int, num: int, pixels: int, classes: int, kind: str, low: float, width: float, double: bool, target: str,
    loss: str, norm: str,
) -> None:  # fmt: skip
    dtype = torch.float64 if double else torch.float32
    generator = torch.Generator().manual_seed(seed)
    unit = torch.rand(num, pixels, generator=generator).to(dtype)
    inner = network(classes, pixels, dtype, kind, seed)
    images = (low + width * unit).clamp(low, low + width)
    labels = torch.randint(classes, (num,), generator=generator)  # often not what the model says
    found = szegedy_lbfgs(
        lambda x: inner((x - low) / width), images, labels, target, (low, low + width), loss=loss, norm=norm
    )
    assert found.images.dtype == dtype
    assert found.images.isfinite().all()
    assert ((found.images >= low) & (found.images <= low + width)).all()
    read = inner((found.images - low) / width).argmax(1)
    if target == "nearest":
        assert (read[found.success] != labels[found.success]).all()
    else:
        assert torch.equal(read == found.target, found.success) or not found.success.all()
    already = (found.l2 == 0) & found.success
    assert torch.equal(found.images[already], images[already])
    assert (found.c.isnan() | (found.c > 0)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("where", ["everywhere", "away from the image"])
def test_models_that_answer_nan(where: str, dtype: torch.dtype) -> None:
    inner = network(3, 6, dtype, "sigmoid", 1)
    images = torch.rand(4, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    labels = inner(images).argmax(1)

    def model(x: Tensor) -> Tensor:
        far = (x[:, None] - images).abs().amax(2).amin(1) > (0.2 if where != "everywhere" else -1)
        return inner(x).masked_fill(far[:, None], torch.nan)

    found = szegedy_lbfgs(model, images, labels, "random")
    assert found.images.isfinite().all()
    assert (found.evaluations < 1000).all()
    if where == "everywhere":
        assert not found.success.any()
        assert torch.equal(found.images, images)


def test_duplicated_rows_have_equal_results_in_double_precision() -> None:
    inner = network(4, 10, torch.float64, "sigmoid", 3)
    image = torch.rand(1, 10, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = szegedy_lbfgs(inner, image.expand(6, -1), inner(image).argmax(1).expand(6), "runner-up")
    torch.testing.assert_close(found.l2, found.l2[:1].expand(6), rtol=1e-10, atol=0)
    assert (found.evaluations == found.evaluations[0]).all()
