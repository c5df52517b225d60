"""Noise that adversarial examples are held against."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from advlab.data import Dataset
from advlab.errors import UserError
from advlab.transfer import controls
from advlab.transfer.generate import Examples, distortion


@pytest.fixture(scope="module")
def clean(mnist_test: Dataset) -> Dataset:
    return mnist_test.subset(slice(100, 160))


@pytest.fixture(scope="module")
def attacked(clean: Dataset) -> Examples:
    """Made-up examples whose perturbations differ from pixel to pixel."""
    rows = len(clean)
    noise = np.random.default_rng(0).uniform(-0.2, 0.2, clean.images.shape).astype(np.float32)
    images = (clean.images.numpy() + noise).clip(0, 1)
    return Examples(
        index=clean.index.numpy(),
        label=clean.labels.numpy(),
        target=np.zeros(rows, np.int64),
        success=np.ones(rows, bool),
        c=np.ones(rows),
        evaluations=np.ones(rows, np.int64),
        survives_uint8=np.ones(rows, bool),
        images=images,
        **distortion(clean.images.numpy(), images),
    )


def rows_of(examples: Examples, rows: slice) -> Examples:
    return Examples(*(getattr(examples, name)[rows] for name in Examples.__slots__))


DERIVED = ["shuffled-conv", "noise-conv", "sphere-conv", "amplified-0.2-conv", "amplified-0.2-boxed-conv"]


@pytest.mark.parametrize("control", ["gaussian-0.1", "gaussian-0.3-clipped", *DERIVED])
def test_noise_of_an_image_does_not_depend_on_its_shard(control: str, clean: Dataset, attacked: Examples) -> None:
    whole = controls.make(control, clean, attacked, seed=3)
    for rows in (slice(0, 7), slice(7, 60), slice(59, 60)):
        part = controls.make(control, clean.subset(rows), rows_of(attacked, rows), seed=3)
        assert np.array_equal(part.images, whole.images[rows])
        assert np.array_equal(part.rms, whole.rms[rows])


@pytest.mark.parametrize("control", ["gaussian-0.1", "shuffled-conv"])
def test_noise_differs_between_images_seeds_and_controls(control: str, clean: Dataset, attacked: Examples) -> None:
    noise = controls.make(control, clean, attacked, seed=3).images - clean.images.numpy()
    other_seed = controls.make(control, clean, attacked, seed=4).images - clean.images.numpy()
    assert not np.allclose(noise[0], noise[1])
    assert not np.allclose(noise, other_seed)
    if control == "gaussian-0.1":
        twice = controls.make("gaussian-0.2", clean, None, seed=3).images - clean.images.numpy()
        assert not np.allclose(2 * noise, twice, atol=1e-3)


@pytest.mark.parametrize("sigma", ["0.1", "0.3", ".05", "1"])
def test_gaussian_noise_has_its_deviation(sigma: str, clean: Dataset) -> None:
    made = controls.make(f"gaussian-{sigma}", clean, None, seed=0)
    noise = made.images - clean.images.numpy()
    number = noise.size
    assert noise.std() == pytest.approx(float(sigma), rel=5 / (2 * number) ** 0.5)
    assert abs(noise.mean()) < 5 * float(sigma) / number**0.5
    assert made.images.min() < 0  # as in the paper's Table 2, not clipped
    assert made.rms.mean() == pytest.approx(float(sigma), rel=0.01)


def test_clipped_gaussian_noise_stays_in_the_box(clean: Dataset) -> None:
    made = controls.make("gaussian-0.3-clipped", clean, None, seed=0)
    assert made.images.min() == 0
    assert made.images.max() == 1
    assert made.rms.mean() < 0.25  # most pixels are black, where half of the noise is cut off


def test_shuffling_keeps_the_perturbation_but_for_its_place(clean: Dataset, attacked: Examples) -> None:
    made = controls.make("shuffled-conv", clean, attacked, seed=0)
    np.testing.assert_allclose(made.l2, attacked.l2, rtol=1e-6)
    np.testing.assert_allclose(made.linf, attacked.linf, rtol=1e-6)
    original = (attacked.images - clean.images.numpy()).reshape(len(clean), -1)
    shuffled = (made.images - clean.images.numpy()).reshape(len(clean), -1)
    np.testing.assert_allclose(np.sort(shuffled, 1), np.sort(original, 1), atol=2e-7)
    assert not np.allclose(shuffled, original)


@pytest.mark.parametrize("control", ["shuffled-conv", "sphere-conv"])
def test_the_norm_is_that_of_the_perturbation(control: str, clean: Dataset, attacked: Examples) -> None:
    made = controls.make(control, clean, attacked, seed=0)
    np.testing.assert_allclose(made.l2, attacked.l2, rtol=1e-5)


def test_noise_has_the_deviation_of_the_perturbation(clean: Dataset, attacked: Examples) -> None:
    made = controls.make("noise-conv", clean, attacked, seed=0)
    assert made.l2 / attacked.l2 == pytest.approx(1, abs=0.15)
    assert (made.l2 / attacked.l2).mean() == pytest.approx(1, abs=0.02)


def test_borrowed_perturbations_are_those_of_the_next_image(clean: Dataset, attacked: Examples) -> None:
    made = controls.make("borrowed-conv", clean, attacked, seed=0)
    given = made.images - clean.images.numpy()
    found = attacked.images - clean.images.numpy()
    np.testing.assert_allclose(given[:-1], found[1:], atol=1e-6)
    np.testing.assert_allclose(given[-1], found[0], atol=1e-6)


@pytest.mark.parametrize("variant", ["", "-clipped", "-boxed", "-literal"])
def test_amplified_perturbations_keep_their_direction(variant: str, clean: Dataset, attacked: Examples) -> None:
    made = controls.make(f"amplified-0.15{variant}-conv", clean, attacked, seed=0)
    given, found = made.images - clean.images.numpy(), attacked.images - clean.images.numpy()
    wanted = {"": 0.15, "-boxed": 0.15, "-literal": 0.15 / 28}
    if variant in wanted:
        np.testing.assert_allclose(made.rms, wanted[variant], rtol=1e-4)
    else:
        assert (made.rms < 0.15).all()
    if variant in ("-clipped", "-boxed"):
        assert made.images.min() >= 0
        assert made.images.max() <= 1
        assert (given * found >= 0).all()
    else:
        scale = made.l2 / attacked.l2
        np.testing.assert_allclose(given, found * scale[:, None, None, None], atol=1e-5)


def test_a_box_that_is_too_small_is_filled(clean: Dataset, attacked: Examples) -> None:
    made = controls.make("amplified-5-boxed-conv", clean, attacked, seed=0)
    moved = attacked.images != clean.images.numpy()
    assert np.isin(made.images[moved], [0.0, 1.0]).all()


def test_what_was_not_perturbed_is_not_amplified(clean: Dataset) -> None:
    images = clean.images.numpy()
    for variant in ("", "boxed", "literal"):
        assert np.array_equal(controls.amplify(images, np.zeros_like(images), 0.1, variant), images)


@pytest.mark.parametrize("control", ["gaussian-0.1", "shuffled-conv"])
def test_controls_are_no_attacks(control: str, clean: Dataset, attacked: Examples) -> None:
    made = controls.make(control, clean, attacked, seed=0)
    assert made.images.dtype == np.float32
    assert np.array_equal(made.index, clean.index.numpy())
    assert np.array_equal(made.label, clean.labels.numpy())
    assert (made.target == -1).all()
    assert np.isnan(made.c).all()
    assert not made.success.any()
    assert (made.evaluations == 0).all()
    assert made.rms == pytest.approx(made.l2 / 28)


def test_an_image_attacked_towards_several_classes_is_shuffled_each_time(clean: Dataset, attacked: Examples) -> None:
    rows = torch.tensor([0, 0, 5])
    twice = Examples(*(getattr(attacked, name)[rows.numpy()] for name in Examples.__slots__))
    made = controls.make("shuffled-conv", clean.subset(rows), twice, seed=0)
    assert made.index.tolist() == [100, 100, 105]
    np.testing.assert_allclose(made.l2, twice.l2, rtol=1e-6)


def test_labels_and_names_do_not_move_the_noise(clean: Dataset) -> None:
    renamed = replace(clean, labels=clean.labels.flip(0), split="train")
    first, second = (controls.make("gaussian-0.1", d, None, seed=0) for d in (clean, renamed))
    assert np.array_equal(first.images, second.images)


def test_expand_names_one_source_per_model() -> None:
    assert controls.expand(["gaussian-0.1", "shuffled"], ["a", "b"]) == ["gaussian-0.1", "shuffled-a", "shuffled-b"]
    assert controls.expand(["shuffled-b"], ["a", "b"]) == ["shuffled-b"]
    assert controls.expand(["amplified-0.1-boxed"], ["a"]) == ["amplified-0.1-boxed-a"]
    assert controls.attacked_model("amplified-0.1-literal-fc100-100-10@p1") == "fc100-100-10@p1"
    assert controls.attacked_model("shuffled-fc100-100-10") == "fc100-100-10"
    assert controls.attacked_model("gaussian-0.1") is None


def test_valid_controls_pass() -> None:
    controls.validate(["gaussian-0.1", "gaussian-.5-clipped", "gaussian-1", "shuffled", "shuffled-a"], ["a"])
    controls.validate(["sphere", "noise-a", "borrowed", "amplified-0.1", "amplified-.1-boxed-a"], ["a"])
    controls.validate([], [])


@pytest.mark.parametrize(
    "control",
    ["gaussian", "gaussian-", "gaussian--1", "gaussian-0.1-cut", "shuffled-c", "uniform-0.1", "amplified", ""],
)
def test_other_controls_are_refused_by_name(control: str) -> None:
    with pytest.raises(UserError, match=f"unknown control '{control}'; choose gaussian-SIGMA"):
        controls.validate(["gaussian-0.1", control], ["a", "b"])
