"""The one exception that a user's mistake raises, and how others are told in a sentence."""

from __future__ import annotations

from advlab.text import printable


class UserError(Exception):
    """A mistake the user can mend.

    The message is one sentence that names the offending value and the mend. Commands print it without a
    traceback and exit with a non-zero status.
    """


def one_line(error: BaseException) -> str:
    """The message of an error on one line, without control characters."""
    return printable(" ".join(str(error).split()), 2000)
