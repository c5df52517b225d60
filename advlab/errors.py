"""The exception for mistakes of users, and one-line messages of other exceptions."""

import re

from advlab.text import printable


class UserError(Exception):
    """A mistake that the user can fix; its message is one sentence that names the offending value and the fix."""


def one_line(error: BaseException) -> str:
    """The message of an error on one line, without control characters and addresses in memory."""
    return printable(re.sub(r" <[\w.]+ object at 0x\w+>", "", " ".join(str(error).split())), 2000)
