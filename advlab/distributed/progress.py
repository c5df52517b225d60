"""Progress of long work in the terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from advlab.text import printable

OnProgress = Callable[[dict[str, Any]], None]
"""Told the numbers of a study as they come."""


class Stage:
    """One bar: what is being done, how much of it is done, how fast, and how long the rest will take.

    Where standard error is no terminal, a line is printed whenever another tenth is done, or a minute has passed.
    """

    QUIET_SECONDS = 60.0

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self.title, self.total, self.done = title, total, done
        self.console = Console(stderr=True)
        self._already, self._began, self._spoke = done, time.monotonic(), time.monotonic()
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[pace]}"),
            TextColumn("{task.fields[latest]}", style="dim", markup=False),
            console=self.console,
            transient=False,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=total, completed=done, latest="", pace="")

    def __enter__(self) -> Stage:
        if self.done and self.done < self.total:
            self.console.print(f"{self.title}: {self.done} of {self.total} already done")
        self._bar.start()
        return self

    def advance(self, latest: str, count: int = 1) -> None:
        """So many more are done, and the last was ``latest``."""
        before = 10 * self.done // self.total
        self.done += count
        self._bar.update(self._task, completed=self.done, latest=printable(latest), pace=self.pace())
        if 10 * self.done // self.total > before or self.total < 10:
            self._print(latest)

    def say(self, status: str) -> None:
        """Nothing more is done yet; this is what is under way."""
        self._bar.update(self._task, latest=printable(status), pace=self.pace())
        if time.monotonic() - self._spoke > self.QUIET_SECONDS:
            self._print(status)

    def pace(self) -> str:
        """How fast it goes and how long the rest will take at that rate; nothing while nothing is done."""
        done, seconds = self.done - self._already, time.monotonic() - self._began
        if not done or not seconds:
            return ""
        rate = done / seconds
        speed = f"{rate:.1f}/s" if rate >= 1 else f"{60 * rate:.1f}/min"
        left = timedelta(seconds=round((self.total - self.done) / rate))
        return f"{speed}, {left} left" if left else speed

    def _print(self, status: str) -> None:
        self._spoke = time.monotonic()
        if not self.console.is_terminal:
            pace = f", {pace}" if (pace := self.pace()) else ""
            told = f"{self.title}: {self.done} of {self.total}{pace} ({printable(status)})"
            self.console.print(told, highlight=False, soft_wrap=True, markup=False)

    def __exit__(self, *_raised: object) -> None:
        self._bar.stop()
