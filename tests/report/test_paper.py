"""The paper's tables as data, against what the paper says of them in words."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from advlab.studies.cross_training_set.study import CrossTrainingSetConfig
from advlab.studies.paper.plan import PaperConfig
from advlab.studies.transfer import paper_numbers


@pytest.mark.parametrize("table", [paper_numbers.TABLE_2, paper_numbers.TABLE_4], ids=["Table 2", "Table 4"])
def test_every_row_is_whole_and_every_model_misclassifies_its_own_examples(table: paper_numbers.PaperMatrix) -> None:
    assert set(table.error_rates) == set(table.distortion)
    for source, rates in table.error_rates.items():
        assert len(rates) == len(table.targets)
        assert all(0 <= rate <= 1 for rate in rates)
        if source in table.targets:
            assert table.error_rate(source, source) == 1.0


def test_tables_1_and_2_give_the_same_distortions() -> None:
    assert {name: row.distortion for name, row in paper_numbers.TABLE_1.items()} == {
        name: paper_numbers.TABLE_2.distortion[name] for name in paper_numbers.TABLE_1
    }


def test_a_pair_the_paper_lacks_is_none() -> None:
    assert paper_numbers.TABLE_2.error_rate("fc100-100-10", "softmax1e-4") == 0.289
    assert paper_numbers.TABLE_2.error_rate("conv", "softmax1e-4") is None
    assert paper_numbers.TABLE_2.error_rate("softmax1e-4", "conv") is None


def test_the_draw_of_the_halves_is_no_part_of_the_papers_names() -> None:
    halves = paper_numbers.TABLE_4
    assert halves.error_rate("amplified-0.1-fc100-100-10@p1@3", "fc123-456-10@p1@3") == 0.98
    assert halves.error_rate("gaussian-0.1", "fc100-100-10@p2") == 0.027
    assert paper_numbers.TABLE_2.error_rate("gaussian-0.1", "fc100-100-10") == 0.0
    assert halves.error_rate("fc100-100-10@p1", "fc100-100-10") is None
    assert halves.rms("fc123-456-10@p1@3") == 0.059


DEMO = {
    "dataset": "mnist", "split": "train", "train_split": "train", "models": list(paper_numbers.TABLE_1),
    "examples": 1000, "attack": "lbfgs", "target": "random",
}  # fmt: skip
HALVES = CrossTrainingSetConfig().transfer()


def test_make_demo_and_the_papers_studies_repeat_its_tables() -> None:
    assert paper_numbers.repeated(DEMO) is paper_numbers.TABLE_2
    assert paper_numbers.repeated(DEMO | {"models": ["softmax1", "conv"], "examples": 100}) is paper_numbers.TABLE_2
    halves = asdict(HALVES) | {"models": HALVES.models.split(",")}
    assert paper_numbers.repeated(halves) is paper_numbers.TABLE_4
    for folder, config in PaperConfig().studies().items():
        models = list(paper_numbers.TABLE_1) if config.models == "paper" else config.models.split(",")
        expected = paper_numbers.TABLE_4 if config.split == "test" else paper_numbers.TABLE_2
        found = paper_numbers.repeated(asdict(config) | {"models": models})
        assert found is (None if folder.startswith("targets") else expected), folder


@pytest.mark.parametrize(
    "other",
    [
        {"dataset": "fashion_mnist"},
        {"attack": "minimum-norm"},
        {"attack": "foolbox:LinfFastGradientAttack"},
        {"target": "nearest"},
        {"target": "3"},
        {"split": "test"},
        {"split": "p1"},
        {"train_split": "p1"},
        {"examples": 99},
        {"models": ["conv"]},
    ],
)
def test_another_setting_repeats_none_of_them(other: dict[str, Any]) -> None:
    assert paper_numbers.repeated(DEMO | other) is None


def test_rates_print_with_the_papers_digits() -> None:
    printed = [paper_numbers.as_printed(row.test_error) for row in paper_numbers.TABLE_1.values()]
    assert printed == ["7.4", "9.4", "20", "1.64", "1.54", "1.9"]
