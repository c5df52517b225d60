"""No code of the package reads data that could run code, except in a few places with a reason each."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ALLOWED = {
    ("advlab/training/distributed_checkpoint.py", "pickle"): "takes pickles apart; find_class imports nothing",
    ("advlab/engine/worker.py", "pickle"): "sends an exception through Ray's own pickling, in one process",
    ("advlab/attacks/registry.py", "import"): "of this file's own table",
    ("advlab/models/registry.py", "import"): "of this file's own table",
    ("advlab/models/external.py", "import"): "python:MODULE:FACTORY and file:PATH, from the user's command line alone",
    ("advlab/models/efficientnet.py", "import"): "of two packages named in this file",
    ("advlab/engine/worker.py", "import"): "of modules named in this file",
    ("advlab/studies/__init__.py", "import"): "of this file's own table",
    ("advlab/__init__.py", "import"): "of this file's own table of modules that moved",
}
"""By file and kind of thing, why it may be there."""

PICKLES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "copyreg"}
IMPORTS = {"resolve_name", "import_module", "exec_module", "run_path", "run_module"}
BUILTINS = {"__import__", "exec", "eval", "compile"}
RESTORES = {"can_restore", "ResultGrid", "ExperimentAnalysis"}
"""Of Ray Tune: they unpickle its notes, as ``Tuner.restore`` does."""


def findings(code: str) -> Iterator[str]:
    """Kinds of things in a module that could run what a file says."""
    tree = ast.parse(code)
    safe = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call) and _is_safe(node)}
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names) if any(alias.name.split(".")[0] in PICKLES for alias in names):
                yield "pickle"
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in PICKLES:
                yield "pickle"
            case ast.ImportFrom(names=names) if any(alias.name in PICKLES for alias in names):
                yield "pickle"
            case ast.ImportFrom(names=names) if any(alias.name in IMPORTS for alias in names):
                yield "import"
            case ast.Attribute(value=ast.Attribute(attr=attr), attr="load" | "loads") if attr in PICKLES:
                yield "pickle"
            case ast.Attribute(value=ast.Name(id="torch"), attr="load") if id(node) not in safe:
                yield "torch.load"
            case ast.Attribute(value=ast.Name(id="np" | "numpy"), attr="load"):
                yield "np.load"
            case ast.Attribute(value=ast.Name(id="state_dict_loader" | "dcp"), attr="load") if id(node) not in safe:
                yield "dcp.load"
            case ast.Name(id=name) if name in IMPORTS | BUILTINS:
                yield "import"
            case ast.Attribute(attr=attr) if attr in IMPORTS:
                yield "import"
            case ast.Attribute(value=ast.Attribute(attr="Tuner") | ast.Name(id="Tuner"), attr="restore"):
                yield "tuner"
            case ast.Attribute(attr=attr) if attr in RESTORES:
                yield "tuner"


def _is_safe(call: ast.Call) -> bool:
    """Whether a call has ``weights_only=True``, or a reader and a planner of our own."""
    given = {word.arg: word.value for word in call.keywords}
    only = given.get("weights_only")
    return (isinstance(only, ast.Constant) and only.value is True) or {"storage_reader", "planner"} <= given.keys()


def test_the_package_reads_no_code() -> None:
    files = [*(ROOT / "advlab").rglob("*.py"), *(ROOT / "sweeps").glob("*.py")]
    assert len(files) > 150
    found = {(str(file.relative_to(ROOT)), kind) for file in files for kind in findings(file.read_text())}
    assert found == ALLOWED.keys()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("import pickle", "pickle"),
        ("from ray import cloudpickle", "pickle"),
        ("import ray\nray.cloudpickle.loads(b'')", "pickle"),
        ("import joblib as j", "pickle"),
        ("from pickle import loads", "pickle"),
        ("torch.load(path)", "torch.load"),
        ("torch.load(path, weights_only=False)", "torch.load"),
        ("torch.load(a, weights_only=True); torch.load(b)", "torch.load"),
        ("read = map(torch.load, paths)\ntorch.load(b, weights_only=True)", "torch.load"),
        ("np.load(path)", "np.load"),
        ("state_dict_loader.load(state, checkpoint_id=path)", "dcp.load"),
        ("tune.Tuner.restore(path, f)", "tuner"),
        ("Tuner.can_restore(path)", "tuner"),
        ("pkgutil.resolve_name(recipe.network)", "import"),
        ("spec.loader.exec_module(module)", "import"),
        ("eval(text)", "import"),
    ],
)
def test_the_scan_sees(code: str, kind: str) -> None:
    assert kind in set(findings(code))


@pytest.mark.parametrize(
    "code", ["torch.load(path, weights_only=True)", "re.compile('a')", "network.eval()", "store.load(x)"]
)
def test_the_scan_lets_pass(code: str) -> None:
    assert not set(findings(code))
