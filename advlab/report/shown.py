"""The presentation of a study, in the terminal, as files and on W&B."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from rich.console import RenderableType


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """The presentation of a study, made only from its files.

    Attributes:
        files: figures and pages by their path in the study's folder.
        pictures: PNGs for W&B, by name; by default those among the files.
        hints: the last printed lines, on further uses of the study.
        rows: tables for W&B, by name.
        summary: single numbers and sentences for W&B, by name.
    """

    tables: Sequence[RenderableType] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    hints: Sequence[str] = ()
    rows: Mapping[str, pa.Table] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
