"""Loops compiled for the processor: what they take, and their cache."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from advlab import compiled

LOOPS = """
from advlab.compiled import Array, loop


@loop
def double(array: Array) -> None:
    for i in range(len(array)):
        array[i] = 2 * array[i]
"""


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool, torch.bfloat16])
@pytest.mark.parametrize("contiguous", [True, False])
def test_rows_change_places(dtype: torch.dtype, contiguous: bool) -> None:
    tensor = torch.arange(24).view(6, 2, 2).to(dtype) if contiguous else torch.arange(24).view(2, 2, 6).mT.to(dtype)
    tensor = tensor if contiguous else torch.arange(24).view(2, 2, 6).to(dtype).permute(2, 0, 1)
    before, one, other = tensor.clone(), torch.tensor([0, 4]), torch.tensor([3, 1])
    compiled.exchange_rows([tensor], one, other)
    assert torch.equal(tensor, before[[3, 4, 2, 0, 1, 5]])
    compiled.copy_rows([tensor], one, other)
    assert torch.equal(tensor, before[[3, 1, 2, 3, 1, 5]])


def test_only_what_loops_know_fits() -> None:
    assert compiled.fits(torch.zeros(3), torch.zeros(2, 2))
    assert not compiled.fits(torch.zeros(3), torch.zeros(3, dtype=torch.float64))
    assert not compiled.fits(torch.zeros(3, dtype=torch.bfloat16))
    assert not compiled.fits(torch.zeros(3, device="meta"))


def run(folder: Path, body: str, **environment: str) -> str:
    (folder / "loops.py").write_text(LOOPS)
    script = "import numpy as np\nfrom loops import double\n" + textwrap.dedent(body)
    path = f"{folder}{os.pathsep}{Path(__file__).parents[1]}"
    known = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=known | {"PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


DOUBLED = """
a = np.arange(3, dtype="{dtype}")
double(a)
print(a.tolist(), sum(double.stats.cache_hits.values()))
"""


def test_the_cache_serves_the_next_process(tmp_path: Path) -> None:
    assert run(tmp_path, DOUBLED.format(dtype="f4")) == "[0.0, 2.0, 4.0] 0"
    assert run(tmp_path, DOUBLED.format(dtype="f4")) == "[0.0, 2.0, 4.0] 1"


def test_processes_that_save_at_once_keep_their_own_code(tmp_path: Path) -> None:
    """The index is read and written while another process waits in between."""
    slow = """
    import time
    from numba.core.caching import IndexDataCacheFile
    load = IndexDataCacheFile._load_index
    def late(self):
        index = load(self)
        time.sleep(1.5)
        return index
    IndexDataCacheFile._load_index = late
    """
    run(tmp_path, "")
    code = "import numpy as np\nfrom loops import double\n" + textwrap.dedent(slow)
    path = f"{tmp_path}{os.pathsep}{Path(__file__).parents[1]}"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code + DOUBLED.format(dtype=dtype)], env=dict(os.environ) | {"PYTHONPATH": path}
        )
        for dtype in ("f4", "f8")
    ]
    assert [process.wait(120) for process in both] == [0, 0]
    for dtype in ("f4", "f8"):
        assert run(tmp_path, DOUBLED.format(dtype=dtype)) == "[0.0, 2.0, 4.0] 1"


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    failing = """
    from numba.core.caching import IndexDataCacheFile
    def full(*arguments):
        raise OSError(28, "No space left on device")
    IndexDataCacheFile.save = full
    """
    assert run(tmp_path, textwrap.dedent(failing) + DOUBLED.format(dtype="f4")) == "[0.0, 2.0, 4.0] 0"
