"""The exception for mistakes of users, and one-line messages of other exceptions."""

from advlab.text import printable


class UserError(Exception):
    """A mistake that the user can fix; its message is one sentence that names the offending value and the fix."""


def one_line(error: BaseException) -> str:
    """The message of an error on one line, without control characters."""
    return printable(" ".join(str(error).split()), 2000)
