"""Studies on disk: Parquet, content addresses, atomic writes, any PyArrow file system."""

from advlab.store.files import Store
from advlab.store.study import Study

__all__ = ["Store", "Study"]
