"""Studies on disk: Parquet, content addresses, atomic writes, any PyArrow file system."""

from advlab.store.files import Store
from advlab.store.layout import MANIFEST, weights_file
from advlab.store.study import Study, address, study_identity

__all__ = ["MANIFEST", "Store", "Study", "address", "study_identity", "weights_file"]
