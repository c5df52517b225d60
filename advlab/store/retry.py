"""Retry operations on a remote file system that is temporarily unreachable: PyArrow waits 6 seconds for an S3 endpoint
that refuses connections, and the retries of its constructor are counted, not timed, for all threads together.
"""

import logging
import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

from advlab.errors import one_line

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

PATIENCE = 120.0
"""Seconds after which an endpoint that does not answer counts as failed."""

_FIRST_DELAY, _LONGEST_DELAY = 0.5, 8.0

# Error messages of PyArrow's file systems for failures of the network or the server; the last one occurs when the
# answer to the completion of an upload was lost. Permanent errors (no such bucket, access denied) are not among them.
_TRANSIENT = re.compile(
    r"NETWORK_CONNECTION|INTERNAL_FAILURE|UNAVAILABLE|SLOW_DOWN|THROTTLING|REQUEST_TIMEOUT|DEADLINE_EXCEEDED"
    r"|HTTP status (?:408|429|5\d\d)|NO_SUCH_UPLOAD"
)


def persist(operation: Callable[[], Result], place: str) -> Result:
    """Run ``operation``, perhaps several times: while ``place`` is unreachable, retry for up to ``PATIENCE`` seconds.
    Raises its OSError, at once if a retry cannot help.
    """
    deadline = time.monotonic() + PATIENCE
    delay = _FIRST_DELAY
    while True:
        try:
            return operation()
        except OSError as error:
            if not _TRANSIENT.search(str(error)):
                raise
            if time.monotonic() >= deadline:
                raise OSError(f"{place} has been unreachable for {PATIENCE:.0f} s: {one_line(error)}") from error
            if delay == _FIRST_DELAY:
                logger.warning("%s is unreachable (%s); retrying for up to %.0f s", place, one_line(error), PATIENCE)
        time.sleep(delay * random.uniform(0.5, 1.0))  # so that the actors do not all retry at the same moment
        delay = min(2 * delay, _LONGEST_DELAY)
