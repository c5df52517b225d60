"""``python -m advlab.results verify STUDY`` checks a study; ``merge STUDY STUDY … --out OUT`` joins several."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import Progress

from advlab.command import run
from advlab.errors import UserError, one_line
from advlab.store.layout import MANIFEST
from advlab.studies.transfer.merge import merge
from advlab.studies.transfer.results import TransferStudy
from advlab.studies.transfer.verify import Finding, verify
from advlab.text import masked


@dataclass(frozen=True, kw_only=True, slots=True)
class Verify:
    """Check a study: every row there, exactly once, and true. Exits with 0 when it is sound, with 1 when it is not."""

    study: Annotated[str, tyro.conf.Positional]
    """Folder of a study, local or s3://…"""

    repair: bool = False
    """Remove damaged files, so that the next run of the study makes them anew."""

    memory: float | None = None
    """GiB of memory that the files checked at one time may take; a quarter of this machine's when absent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Merge:
    """Join parts of one study, or studies that differ in nothing but models, controls and number of examples."""

    studies: Annotated[list[str], tyro.conf.Positional]
    """Folders of the studies, local or s3://…"""

    out: str
    """Folder of the union."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Command line."""

    action: Annotated[Verify, tyro.conf.subcommand("verify")] | Annotated[Merge, tyro.conf.subcommand("merge")]


def main(options: Options) -> None:
    """Check, or join."""
    if isinstance(options.action, Verify):
        _verify(options.action)
    else:
        _merge(options.action)


def _verify(options: Verify) -> None:
    study = _open(options.study)
    if options.memory is not None:
        if not options.memory > 0:
            raise UserError(f"--memory {options.memory:g} is impossible; choose more than 0.")
        study.store.memory = int(options.memory * 2**30)
    found: Counter[str] = Counter()
    is_sound = True
    with _progress("verifying") as on_progress:
        for finding in verify(study, on_progress):
            print(_mended(study, finding) if options.repair else finding)
            found[finding.kind] += 1
            is_sound &= finding.is_harmless
    told = ", ".join(f"{count} {kind}" for kind, count in found.items())
    if not is_sound:
        print(f"not sound: {told}")
        if found["missing"] or found["damaged"]:
            print(f"the command of this study makes what is missing:\n{masked(study.command)}")
        sys.exit(1)
    print(f"sound: {len(study.sources)} sources × {len(study.targets)} targets{f' ({told})' if told else ''}")


def _mended(study: TransferStudy, finding: Finding) -> str:
    if finding.kind != "damaged" or finding.file == MANIFEST:
        return str(finding)
    try:
        study.store.delete(finding.file)
    except OSError as error:
        return f"{finding.shown}; it cannot be removed ({one_line(error)})"
    return f"{finding.shown}; removed"


def _merge(options: Merge) -> None:
    if len(options.studies) < 2:
        raise UserError("merge joins two or more studies; name their folders, and that of the union with --out.")
    with _progress("merging") as on_progress:
        union, missing = merge([_open(folder) for folder in options.studies], options.out, on_progress)
    print(f"{len(union.targets)} models, {union.config['examples']} examples: {union.store.uri}")
    if missing:
        print(f"{missing} shards are in none of the studies; the command of their union makes them:")
        print(masked(union.command))
    else:
        print("nothing is missing; the matrix is written")


def _open(folder: str) -> TransferStudy:
    study = TransferStudy.open(folder)
    study.require_settings()
    return study


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, nothing elsewhere."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


if __name__ == "__main__":
    run(__doc__ or "", Options, main)
