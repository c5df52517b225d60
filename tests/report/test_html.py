"""The page: whole, escaped, self-contained, and sound in a real browser."""

from __future__ import annotations

import html
import re
import shlex
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import duckdb
import pytest

from advlab import report
from advlab.report.numbers import percent
from advlab.store import Store
from advlab.studies.transfer import figures
from advlab.studies.transfer import page as pages
from advlab.studies.transfer.results import TransferStudy
from advlab.studies.transfer.view import View

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def page(study: TransferStudy | View) -> str:
    view = study if isinstance(study, View) else View(study)
    return pages.page(view, *figures.draw(view))


class Elements(HTMLParser):
    """Every start tag of a page with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def test_render_writes_the_figures_and_the_page(study: TransferStudy) -> None:
    written = report.render(study)
    assert "report.html" in written
    assert "figures/matrix.png" in written
    for name in written:
        assert study.store.exists(name)


def test_the_page_needs_nothing_but_itself(study: TransferStudy) -> None:
    elements = Elements(page(study))
    for _, attributes in elements.found:
        for name in ("src", "href", "srcset", "action"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert {tag for tag, _ in elements.found}.isdisjoint({"iframe", "object", "embed"})


def test_every_number_of_the_matrix_is_on_the_page(study: TransferStudy) -> None:
    text = page(study)
    details = [html.unescape(cell["data-details"] or "") for cell in Elements(text).of("td") if "data-details" in cell]
    assert len(details) == (1 + len(study.sources)) * len(study.targets)
    for row in study.matrix().to_pylist():
        (found,) = [d for d in details if d.startswith(f"Made for {row['source']}, shown to {row['target']}\n")]
        assert f"{percent(row['error_rate'])}% of {row['n']:,} misclassified" in found
        assert f"{percent(row['ci_low'])}–{percent(row['ci_high'])}%" in found
        assert f"{percent(row['conditional_error_rate'])}% of those" in found
        (clean,) = [d for d in details if d.startswith(f"Clean images, shown to {row['target']}\n")]
        assert f"{percent(row['clean_error_rate'])}% of {row['n']:,} misclassified" in clean


def test_tables_have_scopes_and_pictures_have_words(study: TransferStudy) -> None:
    elements = Elements(page(study))
    assert all(header.get("scope") in ("row", "col") for header in elements.of("th"))
    assert len(elements.of("img")) == 5
    assert all(len(image["alt"] or "") > 20 for image in elements.of("img"))


def test_hostile_names_are_escaped(one_model_study: TransferStudy) -> None:
    hostile = "<img src=x onerror=alert(1)>\"'&"
    one_model_study.manifest["revision"] = hostile
    one_model_study.manifest["models"]["softmax1e-4"]["fingerprint"] = hostile
    one_model_study.manifest["config"]["attack"] = hostile
    one_model_study.manifest["dataset"]["name"] = hostile
    elements = Elements(page(one_model_study))
    assert not [image for image in elements.of("img") if image["src"] == "x"]
    assert not [name for _, attributes in elements.found for name in attributes if name.startswith("on")]


def test_a_study_of_one_model_has_a_page(one_model_study: TransferStudy) -> None:
    assert "The model misclassifies 100.0% of the examples" in page(one_model_study)


def test_the_command_is_safe_to_paste() -> None:
    config = {"dataset": "folder:/a b", "models": ["x", "y;rm -rf /"], "shard_size": 9, "split": None}
    line = TransferStudy(Store("OUT"), {"config": config}).command_in("OUT")
    assert shlex.split(line) == [
        *("python", "sweeps/transfer_matrix.py", "--dataset", "folder:/a b", "--models", "x,y;rm -rf /"),
        *("--shard-size", "9", "--out", "OUT"),
    ]


def test_the_command_names_the_study_that_models_came_from(study: TransferStudy) -> None:
    name = study.targets[0]
    study.manifest["models"][name]["origin"] = "study:runs/sweep?name=a*"
    (command,) = re.findall(r"python sweeps/transfer_matrix.py.*?--out OUT", html.unescape(page(study)))
    assert "'study:runs/sweep?name=a*,softmax1e-2'" in command
    assert name not in command.partition("--models")[2].partition("--")[0].replace("study:runs/sweep?name=a*", "")


def test_the_query_on_the_page_makes_the_matrix_again(study: TransferStudy) -> None:
    (query,) = [
        html.unescape(code)
        for code in re.findall(r"<code>(.*?)</code>", page(study), re.S)
        if code.startswith("SELECT")
    ]
    with duckdb.connect(config={"file_search_path": study.store.root}) as connection:
        found = {(row[0], row[1]): row[2:] for row in connection.execute(html.unescape(query)).fetchall()}
    for row in study.matrix().to_pylist():
        n, error_rate, conditional_error_rate, mean_rms, clean_error_rate = found[row["source"], row["target"]]
        assert (n, error_rate, clean_error_rate) == (row["n"], row["error_rate"], row["clean_error_rate"])
        assert conditional_error_rate == pytest.approx(row["conditional_error_rate"], abs=1e-12)
        assert mean_rms == pytest.approx(row["mean_rms"], abs=1e-11)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser_nothing_overflows_is_fetched_or_goes_wrong(repeating: View, tmp_path: Path, width: int) -> None:
    # Headless Chromium does not go below 500 pixels of window, so the page is measured in a frame of that width.
    probe = """<script>
      const wrong = [];
      addEventListener("error", (event) => wrong.push(event.message));
      addEventListener("securitypolicyviolation", (event) => wrong.push(event.blockedURI));
      addEventListener("load", () => {
        const root = document.documentElement, cell = document.querySelector("td.self"), looks = [], sticky = [];
        const clean = document.querySelector("td.cell"), colours = new Set();
        for (const radio of document.querySelectorAll("input[name=shown]")) {
          radio.focus();
          if (document.activeElement === radio) radio.click();
          const paper = document.getElementById("paper").offsetParent !== null;
          looks.push(cell.innerText.trim().split("\\n")[0] + (paper ? " paper" : ""));
          colours.add(getComputedStyle(clean).backgroundColor);
        }
        document.querySelector("[data-details]").focus();
        for (const box of document.querySelectorAll(".scroll"))
          if (box.scrollWidth > box.clientWidth)
            sticky.push(box.querySelector("th:first-child").offsetWidth / box.clientWidth);
        parent.postMessage({
          wrong, inner: innerWidth, overflow: Math.max(0, root.scrollWidth - root.clientWidth),
          tip: !document.getElementById("tip").hidden, looks: looks.join("|"),
          narrow: sticky.every((share) => share <= 0.35), colours: colours.size,
          fetched: performance.getEntriesByType("resource").filter((entry) => !entry.name.startsWith("data:")).length,
          pictures: [...document.images].every((image) => image.complete && image.naturalWidth > 0),
        }, "*");
      });
    </script>"""
    inner = page(repeating).replace("<style>", probe + "<style>", 1)
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<!doctype html><meta charset="utf-8"><iframe width="{width}" height="900" style="border:0" '
        f'srcdoc="{html.escape(inner)}"></iframe><output></output>'
        '<script>addEventListener("message", (event) => {'
        'document.querySelector("output").textContent = Object.entries(event.data).join(";"); });</script>'
    )
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom"]
    run = subprocess.run(
        [str(CHROMIUM), *flags, frame.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    (said,) = re.findall(r"<output>(.*?)</output>", run.stdout)
    found = dict(part.split(",", 1) for part in html.unescape(said).split(";"))
    looks = found.pop("looks").split("|")
    expected = {"wrong": "", "inner": str(width), "overflow": "0", "tip": "true", "narrow": "true", "colours": "2"}
    assert found == expected | {"fetched": "0", "pictures": "true"}
    own = repeating.matrix.own[0]
    rates = (own.error_rate, own.conditional_error_rate, own.same_mistake_rate)
    shown = [f"{percent(rate)}{paper}" for rate, paper in zip(rates, (" paper", "", ""), strict=True)]
    assert [look.partition(" rgb")[0] for look in looks] == shown
