"""The commands and the places to fill in of cluster/README.md."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from ray.scripts.scripts import cli

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "cluster" / "README.md").read_text()
PLACE = r"[\w-]*FILL-IN[\w-]*"
BLOCKS = [block.replace("\\\n", "").splitlines() for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)]


def calls(line: str) -> list[list[str]]:
    """The commands of a line of shell, as words."""
    words = shlex.shlex(line, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    return [list(group) for joint, group in groupby(words, key=lambda word: word in ("&&", ";", "|")) if not joint]


CALLS = [call for block in BLOCKS for line in block for call in calls(line)]
CALLS += [shlex.split(line) for line in re.findall(r"`((?:ray|kubectl) .+?)`", README)]
RAY = [call for call in CALLS if call[0] == "ray" and len(call) > 2]
STUDIES = [
    (call[2], " ".join(inner)) for call in RAY if call[1] == "exec" for inner in calls(call[3]) if inner[0] == "python"
]


def test_five_commands_lead_to_a_matrix() -> None:
    (block,) = [block for block in BLOCKS if any("rsync-down" in line for line in block)]
    assert len(block) == 5


@pytest.mark.parametrize("call", RAY, ids=" ".join)
def test_ray_knows_the_command(call: list[str]) -> None:
    _, name, *arguments = call
    cli.commands[name].make_context(name, list(arguments))


@pytest.mark.parametrize(("file", "study"), STUDIES)
def test_the_study_is_a_command_of_this_repository(file: str, study: str, parse_study: Callable[[str], Any]) -> None:
    options = parse_study(study)
    assert options.common.address == "auto"
    assert options.common.out.startswith("/mnt/shared/")
    if file != "cluster/on_prem.yaml":  # else the head computes nothing
        assert options.layout.gpus if hasattr(options, "layout") else options.pool.num_gpus > 0


def test_files_exist() -> None:
    named = {word for call in CALLS for word in call if word.startswith("cluster/")}
    named |= {f"cluster/{link}" for link in re.findall(r"\]\((.+?)\)", README)}
    named |= set(re.findall(r"`(tests/.+?)`", README))
    assert len(named) >= 5
    for name in named:
        assert (REPOSITORY / name).exists(), name


def test_make_knows_its_targets() -> None:
    targets = [call[1] for call in CALLS if call[0] == "make"]
    assert targets
    subprocess.run(["make", "--dry-run", *targets], cwd=REPOSITORY, check=True, capture_output=True)


@pytest.mark.parametrize("path", sorted((REPOSITORY / "cluster").glob("*.yaml")), ids=lambda path: path.name)
def test_the_places_to_fill_in_are_listed(path: Path) -> None:
    lines = [re.sub(r"#.*", "", line) for line in path.read_text().splitlines()]
    places = set(re.findall(PLACE, "\n".join(lines)))
    assert places
    (row,) = [row for row in README.splitlines() if row.startswith(f"| [`{path.name}`]")]
    assert set(re.findall(PLACE, row)) == places
