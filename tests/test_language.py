"""The language of package, commands, docs and messages: first lines of modules, and words that are not used."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    path
    for folder in ("advlab", "sweeps", "benchmarks", "tests")
    for path in (ROOT / folder).rglob("*.py")
    if path != Path(__file__)
)
TEXTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "cluster/*", "advlab/**/*.jinja")
    for path in ROOT.glob(pattern)
    if path.is_file()
)
RIDDLE = re.compile(r"(What|Who|Whose|Which|Being|How|Where|Why|When|Whether|Is|Are|Do|Does)\b")
"""The first word of a line that does not say what a module is."""
UNUSED = {
    r"misread|(?<!\w)reads? rightly": "misclassified, classified correctly",
    r"(?<![a-z])anew(?![a-z])": "again",
    r"\bbut for\b": "except",
    r"no number any more": "NaN or infinite",
    r"(?<![Tt]here )\bis no (?!longer\b|more\b|less\b|better\b|worse\b|larger\b|smaller\b|faster\b)[a-z]": "is not a",
}
NUMERICS = [
    path
    for folder in ("attacks", "optim", "data", "models", "training", "analysis", "hardening", "transfer")
    for path in sorted((ROOT / "advlab" / folder).rglob("*.py"))
]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_the_first_line_of_a_module_says_what_it_is(path: Path) -> None:
    first = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
    assert not RIDDLE.match(first), first
    assert not re.search(r"\?(\s|$)", first), first


@pytest.mark.parametrize("path", MODULES + TEXTS, ids=relative)
def test_words(path: Path) -> None:
    lines = path.read_text().splitlines()
    found = [
        f"line {number}: {line.strip()} (say: {instead})"
        for pattern, instead in UNUSED.items()
        for number, line in enumerate(lines, 1)
        if re.search(pattern, line)
    ]
    assert not found, "\n".join(found)


def messages(tree: ast.Module) -> Iterator[str]:
    """Constant parts of the strings in all calls of errors and loggers."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and re.search(r"Error$|^_?log(ger)?\.", ast.unparse(node.func)):
            for part in ast.walk(node):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value


@pytest.mark.parametrize("path", NUMERICS, ids=relative)
def test_messages_of_the_numerics_name_no_flags(path: Path) -> None:
    flags = [text for text in messages(ast.parse(path.read_text())) if re.search(r"--[a-z]", text)]
    assert all("pip install" in text for text in flags), flags
