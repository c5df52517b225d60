"""Studies that earlier revisions wrote stay readable, and the same command goes on with them.

``earlier/KIND-REVISION.tar.xz`` is what the command of that revision left, without its figures.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from advlab import studies
from advlab.store import Study
from advlab.studies.transfer.layout import predictions_part
from advlab.studies.transfer.merge import merge
from advlab.studies.transfer.results import TransferStudy
from advlab.studies.transfer.show import show
from advlab.studies.transfer.verify import verify
from advlab.studies.transfer.view import View

REPOSITORY = Path(__file__).parents[2]
EARLIER = sorted((Path(__file__).parent / "earlier").glob("*.tar.xz"))


def unpacked(name: str, folder: Path) -> str:
    with tarfile.open(Path(__file__).parent / "earlier" / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return str(folder / name)


@pytest.mark.parametrize("name", [path.name.removesuffix(".tar.xz") for path in EARLIER])
def test_it_is_shown(name: str, tmp_path: Path) -> None:
    folder = unpacked(name, tmp_path)
    experiment = studies.of_kind(Study.open(folder).manifest["kind"])
    opened = TransferStudy.open(folder) if experiment.kind == "transfer" else Study.open(folder)
    shown = experiment.show(opened, 120)
    assert shown.tables
    assert shown.summary or shown.rows


@pytest.mark.parametrize("revision", ["def6b69", "d0e6ee1"])
def test_a_transfer_study_is_sound(revision: str, tmp_path: Path) -> None:
    study = TransferStudy.open(unpacked(f"transfer-{revision}", tmp_path))
    assert not [str(finding) for finding in verify(study) if not finding.is_harmless]


def test_it_merges_with_a_part_of_itself(tmp_path: Path) -> None:
    whole = TransferStudy.open(unpacked("transfer-d0e6ee1", tmp_path / "whole"))
    part = TransferStudy.open(unpacked("transfer-d0e6ee1", tmp_path / "part"))
    part.store.delete(predictions_part("softmax1", "softmax1", 0))
    union, missing = merge([part, whole], str(tmp_path / "union"))
    assert missing == 0
    assert (
        union.matrix()
        .select(["source", "target", "n", "error_rate"])
        .equals(whole.matrix().select(["source", "target", "n", "error_rate"]))
    )


def test_the_same_command_goes_on_with_it(tmp_path: Path) -> None:
    study = TransferStudy.open(unpacked("transfer-d0e6ee1", tmp_path))
    lost = predictions_part("softmax1", "softmax1e-2", 3)
    before, kept = study.store.read_table(lost), study.store.read_bytes(predictions_part("softmax1", "softmax1e-2", 0))
    study.store.delete(lost)
    script, *arguments = shlex.split(study.command)[1:]
    line = [sys.executable, str(REPOSITORY / script), *arguments, "--actors", "1"]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    assert study.store.read_table(lost).equals(before)
    assert study.store.read_bytes(predictions_part("softmax1", "softmax1e-2", 0)) == kept
    assert show(View(TransferStudy.open(study.store.uri)), 120).summary["finding"]
