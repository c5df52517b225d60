"""Fixtures of the tests of the cluster files."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from advlab import command
from advlab.studies.experiment import Experiment

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def parse_study(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """The options of a command line such as ``python sweeps/transfer_matrix.py --seed 1``, parsed but not run."""

    def parse(line: str) -> Any:
        python, script, *arguments = shlex.split(line)
        assert python == "python"
        spec = importlib.util.spec_from_file_location("sweep", REPOSITORY / script)
        assert spec is not None
        assert spec.loader is not None
        sweep = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "sweep", sweep)  # where dataclasses look for the names in their annotations
        spec.loader.exec_module(sweep)
        parsed: list[Any] = []
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        (experiment,) = [
            kind for kind in vars(sweep).values() if isinstance(kind, type) and issubclass(kind, Experiment)
        ]
        command.run(str(sweep.__doc__), experiment, parsed.append)
        return parsed[0]

    return parse
