"""The report kit: figures as PNG, numbers as text, colours, W&B, and the command that shows any study."""

from typing import TYPE_CHECKING, Any

from advlab.report.shown import Shown
from advlab.report.tracker import Mode, Tracker

if TYPE_CHECKING:
    from advlab.studies.transfer.show import print_study, render

__all__ = ["Mode", "Shown", "Tracker", "print_study", "render"]


def __getattr__(name: str) -> Any:
    if name in ("print_study", "render"):  # of transfer studies, under the names that scripts use
        from advlab.studies.transfer import show

        return getattr(show, name)
    raise AttributeError(name)
