"""Transfer studies read back, and the commands ``verify`` and ``merge``: the name that other people's code imports."""

from advlab.store import Store
from advlab.studies.transfer.results import TransferStudy as Study

__all__ = ["Store", "Study"]
