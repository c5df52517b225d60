"""Models from elsewhere: a factory in a file, torchvision, timm."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import ray
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
    with pytest.raises(UserError, match="is not a Python file"):
        models.load(f"file:{tmp_path}/model.txt:make")


HELPER = """
from torch import nn
WIDTH = 2

class Block(nn.Linear):
    def forward(self, images):
        return super().forward(images) + WIDTH
"""
LAYOUTS = {
    "a name": ("from torch import nn\nfrom helper import Block\n", "Block(4, 2)", {"helper.py": HELPER}),
    "a module": ("from torch import nn\nimport helper\n", "helper.Block(4, 2)", {"helper.py": HELPER}),
    "a package": (
        "from torch import nn\nimport parts.blocks\n", "parts.blocks.Block(4, 2)",
        {"parts/__init__.py": "from .blocks import WIDTH\n", "parts/blocks.py": HELPER},
    ),
    "no __init__": (
        "from torch import nn\nfrom parts.blocks import Block\n", "Block(4, 2)", {"parts/blocks.py": HELPER},
    ),
    "by way of another": (
        "from torch import nn\nfrom first import made\n", "made()",
        {"first.py": "import helper\ndef made(): return helper.Block(4, 2)\n", "helper.py": HELPER},
    ),
    "in the factory": (
        "from torch import nn\n", "__import__('helper').Block(4, 2)", {"helper.py": HELPER},
    ),
    "a folder added to the path": (
        "import pathlib, sys\nfrom torch import nn\nsys.path.append(str(pathlib.Path(__file__).parent / 'src'))\n"
        "from helper import Block\n", "Block(4, 2)", {"src/helper.py": HELPER},
    ),
    "named like an installed package": (
        "from torch import nn\nfrom rich import Block\n", "Block(4, 2)", {"rich.py": HELPER},
    ),
}  # fmt: skip


def repository(folder: Path, layout: str) -> str:
    """Files of a model and of what it imports; the model's name."""
    head, expression, files = LAYOUTS[layout]
    files = files | {"nets.py": f"{head}def net(): return nn.Sequential(nn.Flatten(), {expression})\n"}
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return f"file:{folder}/nets.py:net"


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of all layouts with images and logits, pickled as Ray does; their files are gone since."""
    folder = tmp_path_factory.mktemp("shipped")
    for layout in LAYOUTS:
        model = models.load(repository(folder / layout, layout))
        images = torch.rand(3, 1, 2, 2)
        (folder / f"{layout}.pickle").write_bytes(ray.cloudpickle.dumps((model, images, model(images))))
        (folder / layout).rename(folder / f"gone {layout}")
    return folder


def test_a_file_may_import_what_lies_beside_it_and_the_model_goes_without_them(shipped: Path) -> None:
    """As when Python runs it; another process has none of its files."""
    program = """
import pathlib, pickle, sys, ray, torch
for file in pathlib.Path(sys.argv[1]).glob("*.pickle"):
    model, images, logits = pickle.loads(file.read_bytes())
    print(torch.equal(model(images), logits), file.stem)
"""
    ran = subprocess.run([sys.executable, "-c", program, str(shipped)], text=True, stdout=subprocess.PIPE, cwd="/")
    assert sorted(ran.stdout.splitlines()) == sorted(f"True {layout}" for layout in LAYOUTS)


def test_imports_of_a_file_leave_no_trace(tmp_path: Path) -> None:
    rich = importlib.import_module("rich")
    path, modules = list(sys.path), dict(sys.modules)
    for layout in LAYOUTS:
        models.load(repository(tmp_path / layout, layout))
    assert sys.path == path
    assert sys.modules["rich"] is rich
    assert sys.modules == modules


def test_files_of_one_name_beside_two_models_stay_apart(tmp_path: Path) -> None:
    names = [repository(tmp_path / folder, "a module") for folder in "ab"]
    (tmp_path / "b/helper.py").write_text(HELPER.replace("WIDTH = 2", "WIDTH = 30"))
    first, second = map(models.load, names)
    images = torch.rand(3, 4)
    for model, shift in ((first, 2), (second, 30)):
        torch.testing.assert_close(model(images), torch.nn.functional.linear(images, *model.parameters()) + shift)


def test_what_a_model_imports_is_part_of_its_identity(tmp_path: Path) -> None:
    name = repository(tmp_path, "by way of another")
    before = external.identity(name)
    assert external.identity(name) == before
    (tmp_path / "helper.py").write_text(HELPER + "# changed\n")
    assert external.identity(name) != before
    alone = tmp_path / "alone.py"
    alone.write_text(FACTORIES)
    assert external.identity(f"file:{alone}:make") == hashlib.sha256(alone.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import nowhere_at_all\n", "No module named 'nowhere_at_all'; its imports must .* on PYTHONPATH"),
        ("from .helper import Block\n", "attempted relative import .*; its imports must be beside it"),
        (
            "from torch import nn\nclass Lazy(nn.Module):\n    def forward(self, x):\n"
            "        from helper import WIDTH\n        return x * WIDTH\ndef net(): return Lazy()\n",
            "line 4 of .*nets.py imports helper when the model runs; import it at the top of the file",
        ),
    ],
)
def test_imports_that_cannot_be_had_are_reported(source: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text(HELPER)
    (tmp_path / "nets.py").write_text(source)
    with pytest.raises(UserError, match=told):
        models.load(f"file:{tmp_path}/nets.py:net")


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
