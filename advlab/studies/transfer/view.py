"""A transfer study as its report sees it: every table, figure and page is made from one view, which reads once."""

import math
from collections.abc import Callable
from functools import cache, cached_property, lru_cache
from typing import Any

import pyarrow as pa

from advlab.studies.transfer import paper_numbers
from advlab.studies.transfer.results import TransferStudy
from advlab.studies.transfer.summary import CLEAN, Cell, Matrix, ModelRow, Row
from advlab.transfer.metrics import wilson

_SCANNED = 400
"""Examples of a source among which the shown ones are chosen."""


class View:
    """What is read of a study for its report, when it is first asked for.

    Attributes:
        paper: the table of the paper that it repeats, if it repeats one.
        sizes: source → ``rms`` and ``success`` of all its examples.
        first: source → its first examples, images and all; those of one source are kept at a time.
    """

    def __init__(self, study: TransferStudy) -> None:
        self.study = study
        self.paper = paper_numbers.repeated(study.config)
        self.sizes: Callable[[str], pa.Table] = cache(lambda source: study.examples(source, ["success", "rms"]))
        self.first: Callable[[str], pa.Table] = lru_cache(1)(lambda source: study.examples(source, limit=_SCANNED))

    @cached_property
    def table(self) -> pa.Table:
        return self.study.matrix()

    @cached_property
    def matrix(self) -> Matrix:
        """The same in display order, the paper's numbers beside ours where the study repeats one of its tables."""
        records = {(record["source"], record["target"]): record for record in self.table.to_pylist()}
        targets, rows = tuple(self.study.targets), []
        for source in sorted(self.study.sources, key=self.study.is_control):
            found = [records.get((source, target)) for target in targets]
            rms = next((_number(record["mean_rms"]) for record in found if record is not None), None)
            printed = None if self.paper is None else self.paper.rms(source)
            rows.append(Row(source, self.study.is_control(source), rms, printed, tuple(map(self._cell, found))))
        # plain noise is made of every image, once; attacked examples may leave images out, or repeat them
        plain = min(self.study.sources, key=lambda source: not source.startswith("gaussian-"), default="")
        clean = tuple(self._clean(records.get((plain, target))) for target in targets)
        return Matrix(targets, tuple(rows), Row(CLEAN, True, 0.0, None, clean) if any(clean) else None)

    @cached_property
    def models(self) -> list[ModelRow]:
        """The models in display order, with their errors and the mean distortion of their examples."""
        distortion = {row.source: row.mean_rms for row in self.matrix.rows}
        printed = paper_numbers.TABLE_1 if self.paper is paper_numbers.TABLE_2 else {}
        rows = []
        for name in self.study.targets:
            entry = self.study.manifest["models"].get(name, {})
            report = entry.get("report") or {}
            train, test = (_number(report.get(f"{split}_error")) for split in ("train", "test"))
            known = report.get("iterations"), distortion.get(name), printed.get(name)
            rows.append(ModelRow(name, entry.get("fingerprint", ""), train, test, *known))
        return rows

    def _cell(self, record: dict[str, Any] | None) -> Cell | None:
        if record is None:
            return None
        known = {name: record[name] for name in ("source", "target", "n", "error_rate", "ci_low", "ci_high")}
        known |= {name: _number(record[name]) for name in ("conditional_error_rate", "same_mistake_rate")}
        printed = None if self.paper is None else self.paper.error_rate(record["source"], record["target"])
        return Cell(**known, paper=printed)

    def _clean(self, record: dict[str, Any] | None) -> Cell | None:
        """A target's answers to the clean images, of which no image counts twice."""
        rate = None if record is None else _number(record["clean_error_rate"])
        if record is None or rate is None:
            return None
        n = min(record["n"], self.study.config["examples"])
        return Cell(CLEAN, record["target"], n, rate, *wilson(round(rate * n), n))


def _number(value: float | None) -> float | None:
    """Null and NaN both mean "no such rate": Parquet writers differ in which they keep."""
    return None if value is None or math.isnan(value) else value
