"""The cost of ten interruptions: at most the units that were under way."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from advlab.data import Dataset
from advlab.studies.transfer.results import TransferStudy
from advlab.studies.transfer.verify import verify

SWEEP = Path(__file__).parents[2] / "sweeps" / "transfer_matrix.py"
SHARD, SHARDS, ACTORS, INTERRUPTIONS = 10, 60, 2, 10

# A slow model that writes down each unit of work that reaches it, by what only that unit shows it: an attack begins
# with the gradient at the clean shard, an evaluation is made in inference mode.
MODEL = """
import hashlib
import time

import torch
from torch import nn


class Diary(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(784, 10).requires_grad_(False)

    def forward(self, images):
        if torch.is_inference_mode_enabled():
            self.note("shown", images)
        elif images.requires_grad and len(images) == {shard}:
            self.note("attacked", images)
        return self.linear(images.flatten(1))

    def note(self, what, images):
        digest = hashlib.sha256(images.detach().numpy().tobytes()).hexdigest()
        with open({diary!r}, "a") as stream:
            stream.write(f"{{what}} {{digest}}\\n")
"""

pytestmark = pytest.mark.slow


@pytest.mark.timeout(1800)
def test_ten_interruptions_repeat_at_most_what_was_under_way(mnist_train: Dataset, tmp_path: Path) -> None:
    out, diary, dice = tmp_path / "out", tmp_path / "diary", random.Random(0)
    (tmp_path / "model.py").write_text(MODEL.format(shard=SHARD, diary=str(diary)))
    command = [
        sys.executable, str(SWEEP), "--models", f"file:{tmp_path / 'model.py'}:Diary", "--controls", "gaussian-0.3",
        "--attack", "minimum-norm", "--target", "random", "--examples", str(SHARD * SHARDS),
        "--shard-size", str(SHARD), "--actors", str(ACTORS), "--out", str(out),
    ]  # fmt: skip
    units = 3 * SHARDS  # an attack, and evaluations of its examples and of noise, each of which writes one file

    def written() -> int:
        return len(list(out.rglob("part-*.parquet")))

    for goal in sorted(dice.sample(range(1, units - 2 * ACTORS * INTERRUPTIONS), INTERRUPTIONS)):
        goal = max(goal, written() + 1)
        with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True) as process:
            while written() < goal:
                assert process.poll() is None, process.communicate()
                time.sleep(0.005)
            time.sleep(dice.uniform(0, 0.3))
            os.killpg(process.pid, signal.SIGKILL)
    subprocess.run(command, check=True, timeout=300)
    assert not [finding for finding in verify(TransferStudy.open(str(out))) if not finding.is_harmless]

    clean = {digest(shard) for shard in mnist_train.images[: SHARD * SHARDS].split(SHARD)}
    noted = (note.split() for note in diary.read_text().splitlines())
    notes = Counter((what, which) for what, which in noted if (what == "attacked") == (which in clean))
    repeated = notes.total() - len(notes)
    print(f"{repeated} of {units} units of work done again after {INTERRUPTIONS} interruptions")
    assert len(notes) == units
    assert repeated <= ACTORS * INTERRUPTIONS


def digest(images: torch.Tensor) -> str:
    return hashlib.sha256(images.numpy().tobytes()).hexdigest()
