"""How work that failed is told."""

from __future__ import annotations

from advlab.distributed.ledger import Failure
from advlab.errors import UserError
from advlab.results import Study


def require_success(failures: list[Failure], study: Study) -> None:
    """Raise a UserError that names the first of the units that failed, if any did."""
    if failures:
        first = failures[0]
        raise UserError(
            f"{len(failures)} unit{'s' * (len(failures) > 1)} of work failed, the first being {first.unit.name!r} "
            f"({first.reason}); the finished ones are kept in {study.store.uri!r}: run the same command again "
            "once the cause is gone."
        )
