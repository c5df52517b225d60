"""The commands ``python -m advlab.results verify STUDY`` and ``merge STUDY STUDY … --out OUT``."""

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
from advlab.store import MANIFEST
from advlab.studies.transfer.merge import merge
from advlab.studies.transfer.results import TransferStudy
from advlab.studies.transfer.verify import Finding, verify
from advlab.text import masked


@dataclass(frozen=True, kw_only=True, slots=True)
class Verify:
    """Verify that every row of a study exists exactly once and is correct; the exit code is 0 if so, else 1."""

    study: Annotated[str, tyro.conf.Positional]
    """Folder of a study, local or s3://…"""
    repair: bool = False
    """Remove damaged files, which the next run of the study computes again."""
    memory: float | None = None
    """Memory limit in GiB for the files that are checked at one time; by default a quarter of this machine's memory."""

    def run(self) -> None:
        study = _open(self.study)
        if self.memory is not None:
            if not self.memory > 0:
                raise UserError(f"--memory {self.memory:g} is impossible; choose more than 0.")
            study.store.memory = int(self.memory * 2**30)
        found: Counter[str] = Counter()
        is_sound = True
        with _progress("verifying") as on_progress:
            for finding in verify(study, on_progress):
                print(_repaired(study, finding) if self.repair else finding)
                found[finding.kind] += 1
                is_sound &= finding.is_harmless
        findings = ", ".join(f"{count} {kind}" for kind, count in found.items())
        if not is_sound:
            print(f"not sound: {findings}")
            if found["missing"] or found["damaged"]:
                print(f"the command of this study computes what is missing:\n{masked(study.command)}")
            sys.exit(1)
        told = f" ({findings})" if findings else ""
        print(f"sound: {len(study.sources)} sources × {len(study.targets)} targets{told}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Merge:
    """Merge parts of one study, or studies that differ only in models, controls and number of examples."""

    studies: Annotated[list[str], tyro.conf.Positional]
    """Folders of the studies, local or s3://…"""
    out: str
    """Folder of the union."""

    def run(self) -> None:
        if len(self.studies) < 2:
            raise UserError("merge needs two or more studies; give their folders, and the output folder with --out.")
        with _progress("merging") as on_progress:
            union, missing = merge([_open(folder) for folder in self.studies], self.out, on_progress)
        print(f"{len(union.targets)} models, {union.config['examples']} examples: {union.store.uri}")
        if missing:
            print(f"{missing} shards are in none of the studies; this command computes them:")
            print(masked(union.command))
        else:
            print("nothing is missing; the matrix is written")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Command line."""

    action: Annotated[Verify, tyro.conf.subcommand("verify")] | Annotated[Merge, tyro.conf.subcommand("merge")]


def main(options: Options) -> None:
    options.action.run()


def _repaired(study: TransferStudy, finding: Finding) -> str:
    if finding.kind != "damaged" or finding.file == MANIFEST:
        return str(finding)
    try:
        study.store.delete(finding.file)
    except OSError as error:
        return f"{finding.shown}; it cannot be removed ({one_line(error)})"
    return f"{finding.shown}; removed"


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
