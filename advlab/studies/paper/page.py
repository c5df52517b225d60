"""The Markdown page with the paper's tables and claims beside ours, computed from the rows of the studies."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from statistics import fmean
from typing import Any, Self

import numpy as np
import pyarrow as pa
from jinja2 import Environment, PackageLoader, StrictUndefined

from advlab.analysis.alignment import Regression, regress
from advlab.errors import UserError
from advlab.report.numbers import markdown_head, markdown_table
from advlab.store import Store
from advlab.studies.cross_training_set.study import HALVES
from advlab.studies.paper.plan import ALIGNMENT, FIRST_TABLES, LAST_TABLES, POLICIES, READINGS, TARGETS, seed_folder
from advlab.studies.transfer import figures, paper_numbers
from advlab.studies.transfer.paper_numbers import M1, M1_PRIME, M2, PaperMatrix, as_printed, undrawn
from advlab.studies.transfer.results import TransferStudy
from advlab.transfer.controls import CURVE, MATCHED
from advlab.transfer.metrics import wilson
from advlab.transfer.seeds import Estimate, estimate, paired_p

PAGE = "REPRODUCTION.md"
CURVES = "images/amplification.png"
SIGMOID = ("fc100-100-10", "fc200-200-10", "ae400-10")
SOFTMAX = ("softmax1e-4", "softmax1e-2", "softmax1")


@dataclass(frozen=True)
class Repeated:
    """One study repeated over seeds; names omit the draw of the halves."""

    studies: list[TransferStudy]

    @classmethod
    def open(cls, out: str, part: str, seeds: int) -> Self:
        """Read the study of every seed; a UserError if one is missing or not finished."""
        studies = [TransferStudy.open(f"{out}/{seed_folder(part, seed)}") for seed in range(seeds)]
        for study in studies:
            if study.manifest["finished"] is None:
                raise UserError(f"the study in {study.store.uri!r} is not finished; run the same command again.")
        return cls(studies)

    @cached_property
    def cells(self) -> list[dict[tuple[str, str], dict[str, Any]]]:
        """Per seed: (source, target) → its row of the matrix."""
        tables = [study.matrix().to_pylist() for study in self.studies]
        return [{(undrawn(row["source"]), undrawn(row["target"])): row for row in rows} for rows in tables]

    @property
    def models(self) -> list[str]:
        return [undrawn(name) for name in self.studies[0].targets]

    def errors(self, source: str, target: str) -> list[float]:
        """The error rate of each seed."""
        return [cells[source, target]["error_rate"] for cells in self.cells]

    def curve(self, source: str, target: str) -> list[tuple[float, Estimate]]:
        """RMS, and error rate on the examples amplified to it."""
        return [(rho, estimate(self.errors(f"amplified-{rho:g}-{source}", target))) for rho in CURVE]

    def counts(self, source: str, target: str) -> tuple[int, int]:
        """Errors and examples over all seeds."""
        rows = [cells[source, target] for cells in self.cells]
        return sum(round(row["error_rate"] * row["n"]) for row in rows), sum(row["n"] for row in rows)

    def distortions(self, source: str) -> list[float]:
        """The mean RMS of each seed."""
        return [cells[source, self.models[0]]["mean_rms"] for cells in self.cells]

    def reports(self, model: str, key: str) -> list[float]:
        """A number of the training report of each seed."""
        seeds = [{undrawn(name): entry for name, entry in study.manifest["models"].items()} for study in self.studies]
        return [float(entries[model]["report"][key]) for entries in seeds]


@dataclass(frozen=True, slots=True)
class Claim:
    """A statement of the paper, the numbers found, and whether they support it; None if one seed is not enough."""

    statement: str
    found: str
    holds: bool | None


def render(out: str, *, seeds: int) -> dict[str, bytes]:
    """The page and its figure: name in ``out`` → content. A UserError if a study is missing or not finished."""
    first, last = (Repeated.open(out, part, seeds) for part in (FIRST_TABLES, LAST_TABLES))
    tally: Counter[str] = Counter()  # of the marks behind the paper's numbers, see `_beside`
    noise_4 = [name for name in map(undrawn, last.studies[0].sources) if name.startswith(("gaussian-", "amplified-"))]
    environment = Environment(
        loader=PackageLoader("advlab.studies.paper", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("reproduction.md.jinja").render(
        seeds=seeds,
        examples=first.studies[0].config["examples"],
        attack=first.studies[0].config["attack"],
        table_1=table_1(first, tally),
        table_2=matrix_table(first, paper_numbers.TABLE_2, ["gaussian-0.1", "gaussian-0.3"], tally),
        table_3=table_3(last, tally),
        table_4=matrix_table(last, paper_numbers.TABLE_4, noise_4, tally),
        matched_2=matched_table(first),
        matched_4=matched_table(last),
        claims=claims(first, last),
        readings=readings_table(TransferStudy.open(f"{out}/{READINGS}")),
        targets=targets_table(out, first),
        alignment=alignment_table(Store(out).read_shard(ALIGNMENT)),
        why=why_it_transfers(Store(out).read_shard(ALIGNMENT)),
        tally=tally,
        curves=CURVES,
        revision=first.studies[0].manifest["revision"],
        versions=first.studies[0].manifest["versions"],
    )
    return {PAGE: page.encode(), CURVES: figures.amplification_curves(first.curve, first.models)}


def table_1(study: Repeated, tally: Counter[str]) -> str:
    """Errors, iterations and distortion of the six models."""
    lines = markdown_head("model", "train error %", "test error %", "iterations", "mean RMS")
    for model in study.models:
        theirs = paper_numbers.TABLE_1[model]
        errors = [
            _rate(study.reports(model, error), getattr(theirs, error), tally, 2)
            for error in ("train_error", "test_error")
        ]
        iterations = f"{fmean(study.reports(model, 'iterations')):.0f}"
        lines.append([model, *errors, iterations, _rms(study.distortions(model), theirs.distortion, tally)])
    return markdown_table(lines)


def matrix_table(study: Repeated, printed: PaperMatrix, controls: list[str], tally: Counter[str]) -> str:
    """A matrix of error rates over seeds, the paper's below ours."""
    lines = markdown_head("examples of ↓ shown to →", *study.models, "mean RMS")
    for source in [*study.models, *controls]:
        cells = [_rate(study.errors(source, m), printed.error_rate(source, m), tally, 1) for m in study.models]
        lines.append([source, *cells, _rms(study.distortions(source), printed.rms(source), tally)])
    return markdown_table(lines)


def table_3(study: Repeated, tally: Counter[str]) -> str:
    tables = [seed.store.read_shard(HALVES).to_pylist() for seed in study.studies]
    rows = [{undrawn(row["model"]): row for row in table} for table in tables]
    lines = markdown_head("model", "error on P1 %", "error on P2 %", "test error %", "mean RMS")
    for model in study.models:
        theirs = paper_numbers.TABLE_3[model]
        errors = [
            _rate([row[model][column] for row in rows], getattr(theirs, column), tally, 2)
            for column in ("p1_error", "p2_error", "test_error")
        ]
        lines.append([f"{theirs.name}: {model}", *errors, _rms(study.distortions(model), theirs.distortion, tally)])
    return markdown_table(lines)


def matched_table(study: Repeated) -> str:
    """Mean error of the other models on the examples, and on controls of the same norm."""
    lines = markdown_head("examples of", "themselves", *MATCHED)
    for source in study.models:
        others = [model for model in study.models if model != source]
        cells = []
        for name in (source, *(f"{kind}-{source}" for kind in MATCHED)):
            rates = [fmean(seed) for seed in zip(*(study.errors(name, model) for model in others), strict=True)]
            cells.append(_percent(estimate(rates), 1))
        lines.append([source, *cells])
    return markdown_table(lines)


def readings_table(study: TransferStudy) -> str:
    """The softmax rows by other readings of decay and stopping rule."""
    distortion = {row["source"]: row["mean_rms"] for row in study.matrix().to_pylist()}
    lines = markdown_head("model", "train error %", "test error %", "iterations", "mean RMS")
    for name in study.targets:
        report = study.manifest["models"][name]["report"]
        theirs = paper_numbers.TABLE_1[next(model for model in reversed(SOFTMAX) if f"{name}-".startswith(f"{model}-"))]
        errors = [
            f"{100 * report[error]:.2f}<br>*{as_printed(getattr(theirs, error))}*"
            for error in ("train_error", "test_error")
        ]
        size = f"{distortion[name]:.3f}<br>*{theirs.distortion:g}*"
        lines.append([name, *errors, f"{report['iterations']:,}", size])
    return markdown_table(lines)


def targets_table(out: str, first: Repeated) -> str:
    """Mean RMS, and mean error of the other models, by target policy; seed 0."""
    policies: dict[str, list[dict[str, Any]]] = {"random": first.studies[0].matrix().to_pylist()}
    for policy in POLICIES:
        policies[policy] = TransferStudy.open(f"{out}/{TARGETS}/{policy}").matrix().to_pylist()
    lines = markdown_head("model", *(f"{name}: RMS, transfer %" for name in policies), "the paper: RMS, transfer %")
    for model in first.models:
        cells = []
        for rows in policies.values():
            own = [row for row in rows if row["source"] == model]
            transfer = fmean(row["error_rate"] for row in own if row["target"] != model)
            cells.append(f"{own[0]['mean_rms']:.3f}, {100 * transfer:.1f}")
        row = zip(paper_numbers.TABLE_2.targets, paper_numbers.TABLE_2.error_rates[model], strict=True)
        printed = fmean(rate for target, rate in row if target != model)
        lines.append([model, *cells, f"*{paper_numbers.TABLE_1[model].distortion:g}, {100 * printed:.1f}*"])
    return markdown_table(lines)


def alignment_table(rows: pa.Table) -> str:
    """Per model, over seeds: size of its gradients, mean alignment with the others, variability of its loss."""
    records = rows.to_pylist()
    lines = markdown_head("model", "‖∇ℓ‖₂", "cosine with the others'", "variance of the loss over seeds")
    for model in dict.fromkeys(row["source"] for row in records):
        own = [row for row in records if row["source"] == model]
        cosine = fmean(row["alignment"] for row in own if row["target"] != model)
        size = fmean(row["gradient_size"] for row in own if row["target"] == model)
        varied = own[0]["variability"]
        lines.append([model, f"{size:.3g}", f"{cosine:.3f}", "–" if varied is None else f"{varied:.2g}"])
    return markdown_table(lines)


def why_it_transfers(rows: pa.Table) -> Regression | None:
    """Regression of the log odds of error of each pair of different models, averaged over seeds.

    None for a single seed, which has no variability.
    """
    pairs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows.to_pylist():
        if row["source"] != row["target"]:
            pairs.setdefault((row["source"], row["target"]), []).append(row)
    if any(row["variability"] is None for pair in pairs.values() for row in pair):
        return None

    def mean(column: str) -> np.ndarray:
        return np.array([fmean(row[column] for row in pair) for pair in pairs.values()])

    error = mean("error_rate").clip(1e-4, 1 - 1e-4)
    return regress(
        {
            "size of the target's gradients (log)": np.log(mean("gradient_size")),
            "alignment of the gradients": mean("alignment"),
            "variability of the source (log)": np.log(mean("variability").clip(1e-12)),
            "RMS of the examples (log)": np.log(mean("rms")),
        },
        np.log(error / (1 - error)),
        [source for source, _ in pairs],
    )


def claims(first: Repeated, last: Repeated) -> list[Claim]:
    """The paper's qualitative statements, each with its numbers."""
    counts = [study.counts(model, model) for study in (first, last) for model in study.models]
    errors, total = map(sum, zip(*counts, strict=True))
    low, _ = wilson(errors, total)
    halves = [(M1, M2), (M1_PRIME, M2), (M2, M1), (M2, M1_PRIME)]
    amplified = f"amplified-0.1-{M1}"
    to_prime, to_other = last.errors(amplified, M1_PRIME), last.errors(amplified, M2)
    step_p = [paired_p(first.distortions(more), first.distortions(less)) for less, more in pairwise(SOFTMAX)]
    return [
        Claim(
            "(a) Every network has adversarial examples for every image it is shown.",
            f"{errors:,} of {total:,} attacks succeeded (Wilson 95%: at least {100 * low:.3f}%).",
            errors == total,
        ),
        _above_noise(
            "(b) They fool networks of other architecture: more errors than noise of the same norm, for every pair of "
            "sigmoid networks.",
            first,
            [(a, b) for a in SIGMOID for b in SIGMOID if a != b],
        ),
        _above_noise(
            "(c) They fool networks trained on a disjoint set: more errors than noise of the same norm.", last, halves
        ),
        Claim(
            "(d) Amplified to RMS 0.1, examples of M1 fool M1' (same half) far more than M2 (other half).",
            f"{_percent(estimate(to_prime), 1)}% against {_percent(estimate(to_other), 1)}%, "
            f"p = {_p(paired_p(to_prime, to_other))} (paired t-test over seeds, one-sided).",
            _is_below(paired_p(to_prime, to_other), 0.05),
        ),
        Claim(
            "(e) A larger λ gives a larger minimum distortion (softmax models).",
            " < ".join(f"{fmean(first.distortions(model)):.4f}" for model in SOFTMAX)
            + f"; larger p of the two steps: {_p(max(step_p))} (paired t-test over seeds, one-sided).",
            _is_below(max(step_p), 0.05),
        ),
        _most_resistant(first),
    ]


def _above_noise(statement: str, study: Repeated, pairs: Sequence[tuple[str, str]]) -> Claim:
    found, worst = [], 0.0
    for source, target in pairs:
        attacked, noise = study.errors(source, target), study.errors(f"noise-{source}", target)
        p = paired_p(attacked, noise)
        worst = max(worst, p) if not math.isnan(p) else math.nan
        difference = estimate([a - b for a, b in zip(attacked, noise, strict=True)])
        found.append(f"{source} → {target}: {_percent(difference, 1)} points more, p = {_p(p)}")
    return Claim(statement, "; ".join(found) + ".", _is_below(worst, 0.05 / len(pairs)))


def _most_resistant(study: Repeated) -> Claim:
    """Mean error of each target on the examples of all others, lowest first."""
    means = {}
    for target in study.models:
        others = [source for source in study.models if source != target]
        means[target] = [fmean(seed) for seed in zip(*(study.errors(s, target) for s in others), strict=True)]
    least, second, *_ = sorted(means, key=lambda target: fmean(means[target]))
    p = paired_p(means[second], means[least])
    return Claim(
        "(f) The autoencoder resists the others' examples most.",
        f"{least} misclassifies {_percent(estimate(means[least]), 1)}% of them, the second, {second}, "
        f"{_percent(estimate(means[second]), 1)}%; p = {_p(p)} (paired t-test over seeds, one-sided).",
        least == "ae400-10" and _is_below(p, 0.05),
    )


def _rate(ours: list[float], theirs: float | None, tally: Counter[str], digits: int) -> str:
    found = estimate(ours)
    text = _percent(found, digits)
    return text if theirs is None else _beside(text, found, theirs, as_printed(theirs), 0.01, tally)


def _rms(ours: list[float], theirs: float | None, tally: Counter[str]) -> str:
    found = estimate(ours)
    text = f"{found.mean:.4f} ± {found.half_width:.4f}" if found.n > 1 else f"{found.mean:.4f}"
    return text if theirs is None else _beside(text, found, theirs, f"{theirs:g}", 1.0, tally)


def _beside(text: str, ours: Estimate, theirs: float, printed: str, unit: float, tally: Counter[str]) -> str:
    """Ours above the paper's number, ``printed`` in a unit, and ``=`` if one further seed could have given it, else
    whether ours is above or below; no mark for a single seed, which has no spread.
    """
    resolution = 0.5 * 10.0 ** -len(printed.partition(".")[2])  # half a unit of the last printed digit
    within = ours.admits(theirs, resolution * unit)
    mark = "" if ours.n == 1 else "=" if within else "↑" if ours.mean > theirs else "↓"
    tally[mark] += 1
    return f"{text}<br>*{printed}* {mark}".rstrip()


def _percent(found: Estimate, digits: int) -> str:
    mean = f"{100 * found.mean:.{digits}f}"
    return mean if found.n == 1 else f"{mean} ± {100 * found.half_width:.{digits}f}"


def _is_below(p: float, level: float) -> bool | None:
    return None if math.isnan(p) else p < level


def _p(value: float) -> str:
    if math.isnan(value):
        return "unknown (one seed)"
    return "< 1e-6" if value < 1e-6 else f"{value:.2g}"
