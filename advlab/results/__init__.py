"""Studies on disk: Parquet, content addresses, atomic writes, any PyArrow file system."""

from advlab.results.store import Store
from advlab.results.study import Study

__all__ = ["Store", "Study"]
