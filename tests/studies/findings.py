"""The findings of `verify` in a study, and the locations of its files."""

from __future__ import annotations

from pathlib import Path

from advlab.studies.transfer.results import TransferStudy
from advlab.studies.transfer.verify import verify


def path(study: TransferStudy, name: str) -> Path:
    return Path(study.store.path(name))


def found(study: TransferStudy) -> list[tuple[str, str]]:
    return [(finding.file, finding.kind) for finding in verify(study)]
