"""The training loop of docs/HARDENING.md runs as printed."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from advlab.data import Dataset
from advlab.hardening.settings import Settings
from advlab.hardening.trainer import Alternating, Trainer
from advlab.results import Store, pools

PAGE = Path(__file__).parents[2] / "docs/HARDENING.md"


def test_the_plain_loop_runs_as_printed(thousand: Dataset, short: Settings, tmp_path: Path) -> None:
    trainer = Trainer(short, thousand, seed=0, source=Alternating())
    trainer.run(5)
    pools.save(Store(tmp_path), "", trainer.pool, trainer.step, trainer.readings())
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names = {"POOL": str(tmp_path), "STEPS": 30}
    torch.manual_seed(0)
    exec(code, names)
    assert float(names["loss"].detach()) < 2  # type: ignore[attr-defined]
