"""The one exception that a user's mistake raises."""


class UserError(Exception):
    """A mistake the user can mend.

    The message is one sentence that names the offending value and the mend. Commands print it without a
    traceback and exit with a non-zero status.
    """
