"""Progress bars of long work in the terminal."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from advlab.store import Store
from advlab.text import printable

OnProgress = Callable[..., None]
"""Called with the metrics of a study as they arrive: ``on_progress({name: value}, step=…)``; the step is optional."""


class Stage:
    """One progress bar: the work, how much of it is done, its rate, and the estimated time left.

    If standard error is not a terminal, a line is printed whenever another tenth is done, or a minute has passed.
    """

    QUIET_SECONDS = 60.0

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self.title, self.total, self.done = title, total, done
        self.console = Console(stderr=True)
        self._already, self._began, self._spoke = done, time.monotonic(), time.monotonic()
        self._reached = False
        columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        state = (TextColumn("{task.fields[pace]}"), TextColumn("{task.fields[latest]}", style="dim", markup=False))
        self._bar = Progress(*columns, *state, console=self.console, disable=not self.console.is_terminal)
        self._task = self._bar.add_task(title, total=total, completed=done, latest="", pace="")

    def __enter__(self) -> Self:
        if self.done and self.done < self.total:
            self.console.print(f"{self.title}: {self.done} of {self.total} already done")
        self._bar.start()
        return self

    def advance(self, latest: str, count: int = 1) -> None:
        """Record that ``count`` more are done; ``latest`` describes the last one."""
        before = 10 * self.done // self.total
        self.done += count
        self._bar.update(self._task, completed=self.done, latest=printable(latest), pace=self.pace())
        if 10 * self.done // self.total > before or self.total < 10:
            self._print(latest)

    def reach(self, done: int, total: int, latest: str) -> None:
        """Record that ``done`` of ``total`` are done; the first call gives the state an earlier command left."""
        if not self._reached:
            self._already, self._began, self._reached = done, time.monotonic(), True
        self.total = total
        self._bar.update(self._task, total=total)
        if done > self.done:
            self.advance(latest, done - self.done)
        else:
            self.say(latest)

    def say(self, status: str) -> None:
        """Show what is running; nothing more is done yet."""
        self._bar.update(self._task, latest=printable(status), pace=self.pace())
        if time.monotonic() - self._spoke > self.QUIET_SECONDS:
            self._print(status)

    def pace(self) -> str:
        """The rate and the time left at that rate; empty while nothing is done."""
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
            line = f"{self.title}: {self.done} of {self.total}{pace} ({printable(status)})"
            self.console.print(line, highlight=False, soft_wrap=True, markup=False)

    def __exit__(self, *_raised: object) -> None:
        self._bar.stop()


LIVE = "progress.json"
"""File in which workers report their progress."""
LIVE_SECONDS = 3.0


class Reporter:
    """Writes the progress of a training run, every few seconds at most, into the study's folder."""

    def __init__(self, store: Store, total: int) -> None:
        self.store, self.total, self._wrote = store, total, 0.0

    def step(self, done: int, **numbers: float) -> None:
        """Report that ``done`` steps are done, with metrics of the latest, already on the host."""
        now = time.monotonic()
        if done == self.total or now - self._wrote > LIVE_SECONDS:
            self._wrote = now
            self.store.write_json(LIVE, {"step": done, "of": self.total, **numbers})


@contextmanager
def following(
    store: Store, title: str, rows: Callable[[], Iterable[dict[str, Any]]], on_progress: OnProgress
) -> Iterator[None]:
    """Show the progress that a `Reporter` writes into a study's folder, while the block runs.

    ``rows`` returns the finished rows so far; ``on_progress`` is called with each of them once, and its ``step``.
    """
    reported: set[int] = set()
    ended = threading.Event()
    with Stage(title, 1) as stage:

        def look() -> None:
            for row in rows():
                if row["step"] not in reported:
                    reported.add(row["step"])
                    on_progress(row, step=row["step"])
            if store.exists(LIVE):
                found = store.read_json(LIVE)
                done, total = int(found.pop("step")), int(found.pop("of"))
                stage.reach(done, total, ", ".join(f"{name} {value:.4g}" for name, value in found.items()))

        def watch() -> None:
            while not ended.wait(LIVE_SECONDS):
                with suppress(OSError, ValueError, KeyError, TypeError):  # an incomplete file is read next time
                    look()

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
            look()
