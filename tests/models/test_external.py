"""Models from elsewhere: a factory in a file, torchvision, timm."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from advlab import models
from advlab.errors import UserError
from advlab.models import external

FACTORIES = """
import torch
from torch import nn

class Halves(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images):
        return self.dropout(self.layer(images.flatten(1)))

def make():
    torch.manual_seed(0)
    return Halves()

def raising():
    raise RuntimeError("no weights here")

def wrong():
    return "a string"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my_models.py"
    path.write_text(FACTORIES)
    return path


def test_a_factory_of_ones_own(file: Path) -> None:
    model = models.load(f"file:{file}:make")
    images = torch.rand(3, 1, 2, 2)
    assert model(images).shape == (3, 2)
    assert torch.equal(model(images), model(images))  # eval mode: no dropout
    assert not any(p.requires_grad for p in model.parameters())


def test_two_files_of_one_name_stay_apart(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / file.name
    other.parent.mkdir()
    other.write_text(FACTORIES.replace("nn.Linear(4, 2)", "nn.Linear(4, 7)"))
    first, second = models.load(f"file:{file}:make"), models.load(f"file:{other}:make")
    assert first(torch.rand(1, 4)).shape == (1, 2)
    assert second(torch.rand(1, 4)).shape == (1, 7)
    assert type(first).__module__ != type(second).__module__


@pytest.mark.parametrize(
    ("factory", "sentence"),
    [
        ("raising", "RuntimeError: no weights here"),
        ("wrong", r"wrong\(\) returned str, not a torch nn.Module"),
        ("absent", "AttributeError"),
        ("not a name", "write file:PATH.py:FACTORY"),
    ],
)
def test_bad_factories(factory: str, sentence: str, file: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        models.load(f"file:{file}:{factory}")


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no file .*missing\.py"):
        models.load(f"file:{tmp_path}/missing.py:make")
    with pytest.raises(UserError, match=r"write file:PATH\.py:FACTORY"):
        models.load("file:make")
    broken = tmp_path / "broken.py"
    broken.write_text("def make(:\n")
    with pytest.raises(UserError, match="SyntaxError"):
        models.load(f"file:{broken}:make")
    (tmp_path / "model.txt").write_text(FACTORIES)
    with pytest.raises(UserError, match="is no Python file"):
        models.load(f"file:{tmp_path}/model.txt:make")


@pytest.mark.parametrize("name", ["torchvision:resnet1", "torchvision:resnet18@NO_SUCH_WEIGHTS", "torchvision:"])
def test_unknown_torchvision_models(name: str) -> None:
    with pytest.raises(UserError, match=f"model '{name}': torchvision has no such model or weights"):
        models.load(name)


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
def test_timm_says_how_to_install_it() -> None:
    with pytest.raises(UserError, match=r"needs timm; install it with: pip install 'advlab\[timm\]'"):
        models.load("timm:resnet18")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("torchvision:x", True), ("timm:x", True), ("file:a.py:b", True), ("conv", False), ("http://x", False)],
)
def test_is_external(name: str, expected: bool) -> None:
    assert external.is_external(name) is expected
