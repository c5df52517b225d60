"""Patience with a remote file system that is out of reach for a while.

PyArrow waits 6 seconds for an S3 endpoint that refuses connections, and a URI cannot ask for more. The retries that its
constructor offers are counted, not timed, and share one budget: ten attempts lasted 85 seconds for one thread, 22 to 41
for sixteen, and the sixteen did not wait at all in the next outage.
"""

from __future__ import annotations

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
"""Seconds after which an endpoint that does not answer counts as gone."""

_FIRST_DELAY, _LONGEST_DELAY = 0.5, 8.0

# What PyArrow's file systems say when the network or the server is at fault; the last is what an upload is told when
# the answer to its completion was lost. Refusals (no such bucket, access denied) are not among them.
_TRANSIENT = re.compile(
    r"NETWORK_CONNECTION|INTERNAL_FAILURE|UNAVAILABLE|SLOW_DOWN|THROTTLING|REQUEST_TIMEOUT|DEADLINE_EXCEEDED"
    r"|HTTP status (?:408|429|5\d\d)|NO_SUCH_UPLOAD"
)


def persist(operation: Callable[[], Result], place: str) -> Result:
    """Do ``operation``; while ``place`` is out of reach, do it again for up to ``PATIENCE`` seconds.

    Args:
        operation: something that may be done several times.
        place: what is out of reach, for the log and the error.

    Raises:
        OSError: what ``operation`` raised, at once where asking again cannot help.
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
                raise OSError(f"{place} has been out of reach for {PATIENCE:.0f} s: {one_line(error)}") from error
            if delay == _FIRST_DELAY:
                logger.warning("%s is out of reach (%s); waiting up to %.0f s", place, one_line(error), PATIENCE)
        time.sleep(delay * random.uniform(0.5, 1.0))  # so that not all actors come back at the same moment
        delay = min(2 * delay, _LONGEST_DELAY)
