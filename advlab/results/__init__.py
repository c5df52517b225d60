"""The names that other code imports: ``Study``, ``Store`` and ``pools``; and the commands ``verify`` and ``merge``."""

from advlab.hardening import snapshots as pools
from advlab.store import Store
from advlab.studies.transfer.results import TransferStudy as Study

__all__ = ["Store", "Study", "pools"]
