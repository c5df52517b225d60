"""The one exception that a user's mistake raises, and how others are told in a sentence."""


class UserError(Exception):
    """A mistake the user can mend.

    The message is one sentence that names the offending value and the mend. Commands print it without a
    traceback and exit with a non-zero status.
    """


def one_line(error: BaseException) -> str:
    """The message of an error on one line."""
    return " ".join(str(error).split())
