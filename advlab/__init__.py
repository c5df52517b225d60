"""A distributed laboratory for adversarial examples and their transfer."""

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_MOVED = {
    "advlab.distributed": "advlab.engine", "advlab.distributed.crew": "advlab.engine.actors",
    "advlab.distributed.tune": "advlab.engine.tune", "advlab.distributed.pool": "advlab.engine.pool",
    "advlab.results.store": "advlab.store.files", "advlab.results.study_models": "advlab.models.study_models",
    "advlab.results.pools": "advlab.hardening.snapshots", "advlab.analysis.network": "advlab.analysis.layer_graph",
    "advlab.training.parallel": "advlab.training.quocnet_parallel",
}  # fmt: skip


class _Moved(MetaPathFinder, Loader):
    """Imports modules by the names that scripts know them by from before they moved."""

    def find_spec(self, fullname: str, *_: Any) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in _MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(_MOVED[spec.name])
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = module.__spec__.loader_state if module.__spec__ else None


sys.meta_path.append(_Moved())
