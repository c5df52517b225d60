"""Functions run by several processes that are joined by gloo."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

Work = Callable[..., Any]


def run(work: Work, ranks: int, folder: Path, *arguments: Any) -> list[Any]:
    """What ``work(*arguments)`` returns in each of ``ranks`` processes, its answers saved by ``torch.save``."""
    folder.mkdir(parents=True, exist_ok=True)
    # A group of one process would go through gloo as well, but needs no process of its own.
    mp.spawn(_join, args=(work, ranks, folder, arguments), nprocs=ranks)
    return [torch.load(folder / f"answer-{rank}", weights_only=False) for rank in range(ranks)]


def _join(rank: int, work: Work, ranks: int, folder: Path, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=ranks, timeout=timedelta(seconds=120)
    )
    torch.save(work(*arguments), folder / f"answer-{rank}")
    dist.barrier()
    dist.destroy_process_group()
