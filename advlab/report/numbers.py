"""Numbers as text: rates in per cent, distortions, cells of tables."""

from collections.abc import Iterable
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

DIM = "dim"


def percent(rate: float | None, digits: int = 1) -> str:
    """A fraction in per cent without the sign: 0.289 -> ``28.9``; an en dash for None."""
    return "–" if rate is None else f"{100 * rate:.{digits}f}"


def span(low: float, high: float) -> str:
    """A range of fractions in per cent: ``26.2–31.8%``."""
    return f"{percent(low)}–{percent(high)}%"


def rms(value: float | None) -> str:
    """A distortion with three decimals, as in the paper, or two digits if it is smaller; an en dash for None."""
    if value is None:
        return "–"
    return f"{value:.2g}" if 0 < value < 0.005 else f"{value:.3f}"


def beside(ours: str, theirs: str | None, separator: str = " ") -> Text:
    """Our number, and the paper's in brackets if it has one."""
    text = Text(ours)
    return text if theirs is None else text.append(f"{separator}({theirs})", DIM)


def ruled(title: str, names: Iterable[str], numbers: Iterable[str], **options: Any) -> Table:
    """An empty table for a terminal, with columns of names and columns of numbers under these headings."""
    table = Table(box=box.HORIZONTALS, title=title, title_justify="left", title_style="bold", **options)
    for heading in names:
        table.add_column(heading, no_wrap=True)
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def markdown_head(*names: str) -> list[list[str]]:
    """The first lines of a Markdown table: a column of names, then columns of numbers."""
    return [list(names), ["---", *("---:" for _ in names[1:])]]


def markdown_table(lines: Iterable[Iterable[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
