"""The actor of a pool, and the interface of units of work."""

import importlib
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import ray

if TYPE_CHECKING:
    import torch

# The class below is sent by value and imports large modules only in `ready`, so that an actor on a machine without the
# project lives long enough to report that.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Unit(Protocol):
    """One piece of work, idempotent."""

    @property
    def name(self) -> str:
        """A unique name, used in messages."""

    @property
    def kind(self) -> str:
        """Units of one kind take about the same time."""

    def run(self, resources: "Resources") -> Any:
        """Process the unit on an actor; the answer must be small."""


class _Worker:
    """The actor, with the resources of the unit that it runs: ``device``, the unit's ``input``, shared objects."""

    MEMO_ENTRIES = 1000
    device: "torch.device"

    def __init__(self) -> None:
        self.input: Any = None
        self._shared: dict[str, ray.ObjectRef] = {}
        self._fetched: dict[str, tuple[ray.ObjectRef, Any]] = {}
        self._memo: OrderedDict[str, Any] = OrderedDict()
        self._note = ""

    def ready(
        self, shared: dict[str, ray.ObjectRef], *, threads: int, use_gpu: bool, code: str, file: tuple[str, str] | None
    ) -> tuple[str, str, str]:
        """Prepare for work on these shared objects.

        Args:
            code: fingerprint of the project's source, which must be the same on all machines.
            file: a folder, and the name of a file in it that the machine must see.

        Returns:
            The id and the address of the machine, and a problem with its fix, or an empty string.
        """
        machine = ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()
        try:
            import torch

            importlib.import_module("advlab.attacks")  # every numerical package that units of work need
            provenance = importlib.import_module("advlab.store.provenance")
            store = importlib.import_module("advlab.store.files")
            importlib.import_module("advlab.extensions").load()
        except Exception as error:  # a broken installation may raise anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            return *machine, f"cannot run advlab ({reason}); install the project there, for the Python that runs Ray"
        if provenance.code() != code:
            return *machine, "has another version of advlab; install the same one on all machines"
        if use_gpu and not torch.cuda.is_available():
            return *machine, "has no GPU that PyTorch can use; fix its driver, or leave out --num-gpus"
        if file is not None and not store.Store(file[0]).exists(file[1]):
            return *machine, f"does not see {'/'.join(file)!r}; choose an --out that all machines share"
        # Work on small tensors becomes ten times slower when there are more threads than cores of the actor.
        torch.set_num_threads(threads)
        self.device = torch.device("cuda" if use_gpu else "cpu")
        if shared != self._shared:  # cached values may be derived from earlier shared objects
            self._memo.clear()
        self._shared = shared
        self._fetched = {key: held for key, held in self._fetched.items() if shared.get(key) == held[0]}
        return *machine, ""

    @ray.method(concurrency_group="status")
    def status(self) -> str:
        return self._note

    def note(self, text: str) -> None:
        """Report the progress of the unit."""
        self._note = text

    def run(self, unit: Unit, given: Any) -> Any:
        self.input, self._note = given, unit.name
        try:
            return unit.run(self)
        except (Exception, KeyboardInterrupt) as error:
            if not _can_travel(error):
                raise RuntimeError(f"{type(error).__name__}: {error}") from None
            raise

    def get(self, key: str) -> Any:
        """The object shared under ``key``, fetched once per machine and kept by the actor."""
        if key not in self._fetched:
            self._fetched[key] = self._shared[key], ray.get(self._shared[key])
        return self._fetched[key][1]

    def memo(self, key: str, make: Callable[[], Any]) -> Any:
        """The value of ``make()``, cached by the actor under ``key`` (least recently used are dropped)."""
        if key not in self._memo:
            self._memo[key] = make()
            if len(self._memo) > self.MEMO_ENTRIES:
                self._memo.popitem(last=False)
        self._memo.move_to_end(key)
        return self._memo[key]


Resources = _Worker


def _can_travel(error: BaseException) -> bool:
    """Whether the driver would receive this error itself, and not one of Ray in its place."""
    if isinstance(error, KeyboardInterrupt):
        return False
    try:
        ray.cloudpickle.loads(ray.cloudpickle.dumps(error))
    except Exception:
        return False
    return True
