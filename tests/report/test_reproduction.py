"""The page of the paper's numbers, from studies with made-up rows."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from advlab.errors import UserError
from advlab.store import Store
from advlab.studies.cross_training_set.study import HALVES
from advlab.studies.paper import page
from advlab.studies.paper.plan import ALIGNMENT, PaperConfig
from advlab.studies.transfer import paper_numbers
from advlab.studies.transfer.layout import MATRIX
from advlab.studies.transfer.matrix import reduce_counts
from advlab.studies.transfer.results import TransferStudy
from advlab.transfer import controls
from advlab.transfer.metrics import Counts

SEEDS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("paper")
    for name, config in PaperConfig(seeds=SEEDS, examples=1000).studies().items():
        write(out / name, config.models.replace("paper", ",".join(paper_numbers.TABLE_1)).split(","), config)
    names, generator = list(paper_numbers.TABLE_1), np.random.default_rng(0)
    columns = ("gradient_size", "alignment", "variability", "rms", "error_rate")
    rows = [
        {"seed": seed, "source": a, "target": b} | dict(zip(columns, generator.random(5).tolist(), strict=True))
        for seed in range(SEEDS)
        for a in names
        for b in names
    ]
    Store(str(out)).write_table(ALIGNMENT, pa.Table.from_pylist(rows))
    return str(out)


def write(out: Path, models: list[str], config: object) -> None:
    """A study whose error rates are the paper's where it has one, give or take a per cent."""
    names = [control for control in config.controls.split(",") if control]
    settings = {"models": models, "controls": names, "examples": 1000, "attack": "lbfgs", "seed": config.seed}
    study = TransferStudy.begin("transfer", settings, str(out))
    generator = np.random.default_rng(config.seed)
    printed = paper_numbers.TABLE_4 if "@p1" in models[0] else paper_numbers.TABLE_2
    counts = {}
    for source in [*models, *controls.expand(names, models)]:
        for target in models:
            rate = 1.0 if source == target else printed.error_rate(source, target) or 0.01
            errors = round(1000 * rate) + generator.integers(8)
            rms = (printed.rms(source) or 0.1) + 0.001 * generator.random()
            counts[source, target] = Counts(1000, int(min(errors, 1000)), 1000, 0, None, round(rms * 1e15))
    study.store.write_table(MATRIX, reduce_counts(counts))
    errors = dict.fromkeys(("p1_error", "p2_error", "test_error"), 0.02)
    study.store.write_table(HALVES, pa.Table.from_pylist([{"model": model, **errors} for model in models]))
    report = {"train_error": 0.0, "test_error": 0.0164, "iterations": 400}
    fingerprints = {model: hashlib.sha256(model.encode()).hexdigest() for model in models}
    study.manifest["models"] = {model: {"fingerprint": fingerprints[model], "report": report} for model in models}
    study.finish(1)


def test_every_number_of_the_paper_stands_beside_ours(folder: str) -> None:
    files = page.render(folder, seeds=SEEDS)
    text = files[page.PAGE].decode()
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    for source, rates in (paper_numbers.TABLE_2.error_rates | paper_numbers.TABLE_4.error_rates).items():
        beside = "".join(line for line in lines if line.startswith(f"| {source} |"))
        assert all(f"<br>*{paper_numbers.as_printed(rate)}*" in beside for rate in rates)
    assert any(line.startswith("| M1': fc123-456-10@p1 |") and "<br>*0.059*" in line for line in lines)
    assert "@p1@1" not in text
    assert "nan" not in text
    assert "| alignment of the gradients | " in text
    printed = int(re.search(r"Of (\d+) printed numbers", text)[1])
    assert printed == sum(text.count(f"* {mark}") for mark in "=↑↓")
    assert files[page.CURVES].startswith(b"\x89PNG")


def test_claims_are_tested_with_numbers(folder: str) -> None:
    first, last = (page.Repeated.open(folder, part, SEEDS) for part in ("tables_1_and_2", "tables_3_and_4"))
    found = {claim.statement[:3]: claim for claim in page.claims(first, last)}
    assert list(found) == ["(a)", "(b)", "(c)", "(d)", "(e)", "(f)"]
    assert all(re.search(r"\d", claim.found) for claim in found.values())
    assert found["(a)"].holds
    assert found["(d)"].holds
    assert "p = " in found["(c)"].found


def test_one_seed_claims_no_more_than_it_can(folder: str) -> None:
    text = page.render(folder, seeds=1)[page.PAGE].decode()
    assert "unknown (one seed)" in text
    assert not re.search(r"\* [=↑↓]", text)
    assert "| **no** |" not in text
    assert "inf" not in text.replace("infer", "")


def test_a_missing_study_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no study"):
        page.render(str(tmp_path), seeds=1)
    with pytest.raises(UserError, match="--seeds 0 is impossible"):
        PaperConfig(seeds=0).studies()
