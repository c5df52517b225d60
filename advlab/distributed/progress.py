"""Progress of long work in the terminal."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Stage:
    """One bar: what is being done, how much of it is done, and how long the rest will take.

    Where standard error is no terminal, a line is printed whenever another tenth is done, or a minute has passed.
    """

    QUIET_SECONDS = 60.0

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self.title, self.total, self.done = title, total, done
        self.console = Console(stderr=True)
        self._spoke = time.monotonic()
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[latest]}"),
            console=self.console,
            transient=False,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=total, completed=done, latest="")

    def __enter__(self) -> Stage:
        if self.done and self.done < self.total:
            self.console.print(f"{self.title}: {self.done} of {self.total} already done")
        self._bar.start()
        return self

    def advance(self, latest: str) -> None:
        """One more is done, and it was ``latest``."""
        before = 10 * self.done // self.total
        self.done += 1
        self._bar.update(self._task, advance=1, latest=latest)
        if 10 * self.done // self.total > before or self.total < 10:
            self._print(latest)

    def say(self, status: str) -> None:
        """Nothing more is done yet; this is what is under way."""
        self._bar.update(self._task, latest=status)
        if time.monotonic() - self._spoke > self.QUIET_SECONDS:
            self._print(status)

    def _print(self, status: str) -> None:
        self._spoke = time.monotonic()
        if not self.console.is_terminal:
            self.console.print(f"{self.title}: {self.done} of {self.total} ({status})", highlight=False, soft_wrap=True)

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._bar.stop()
