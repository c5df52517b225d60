"""Numbers as text: rates in per cent, distortions, cells of tables."""

from __future__ import annotations

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


def markdown_line(cells: list[str]) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(cells)} |"
