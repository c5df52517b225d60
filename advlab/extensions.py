"""Extensions by installed packages: the entry points of the group ``advlab``.

Each names a function without arguments that registers models, attacks, data sets, controls or studies
(`advlab.models.zoo.register` and its like). Commands call it in the driver, and every actor before it works.
"""

from functools import cache
from importlib.metadata import entry_points

from advlab.errors import UserError, one_line

GROUP = "advlab"


@cache
def load() -> None:
    """Call every such function, once in a process; raises a UserError if one of them fails."""
    for point in entry_points(group=GROUP):
        try:
            point.load()()
        except Exception as error:  # foreign code may raise anything
            raise UserError(
                f"the extension {point.name!r} ({point.value}) fails with {type(error).__name__}: {one_line(error)}; "
                "fix or uninstall it."
            ) from error
