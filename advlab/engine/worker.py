"""What runs on an actor: units of work, and what they find there."""

from __future__ import annotations

import importlib
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import ray

if TYPE_CHECKING:
    import torch

# The class below travels by value and imports what is large when asked whether it is ready, so that an actor on a
# machine that lacks the project lives long enough to say so.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Resources(Protocol):
    """What a unit finds on the actor that runs it."""

    device: torch.device
    input: Any
    """What was handed over with the unit."""

    def get(self, key: str) -> Any:
        """The shared object put under ``key``, fetched once per machine and kept by the actor."""

    def memo(self, key: str, make: Callable[[], Any]) -> Any:
        """The value of ``make()``, remembered under ``key`` by the actor while it is among the latest in use."""

    def note(self, text: str) -> None:
        """Say how far the unit is, for those who watch."""


class Unit(Protocol):
    """One piece of work, idempotent."""

    @property
    def name(self) -> str:
        """Unique, and fit for messages."""

    @property
    def kind(self) -> str:
        """Units of one kind take about the same time."""

    def run(self, resources: Resources) -> Any:
        """Do it on an actor; the answer must be small."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What an actor is told, and what its machine must meet to take part.

    Attributes:
        threads: for PyTorch to use.
        use_gpu: whether the work is for a GPU.
        code: fingerprint of the project's source; rows must not depend on which machine made them.
        file: a folder and the name of a file in it that must be there.
    """

    threads: int
    use_gpu: bool
    code: str
    file: tuple[str, str] | None


class _Worker:
    """The actor."""

    MEMO_ENTRIES = 1000

    def __init__(self) -> None:
        self.input: Any = None
        self._shared: dict[str, ray.ObjectRef] = {}
        self._fetched: dict[str, tuple[ray.ObjectRef, Any]] = {}
        self._memo: OrderedDict[str, Any] = OrderedDict()
        self._note = ""

    def ready(self, shared: dict[str, ray.ObjectRef], conditions: Conditions) -> tuple[str, str, str]:
        """Prepare for work on these shared objects.

        Returns:
            The id and the address of the machine, and what is wrong with it and what mends that, if anything is.
        """
        machine = ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()
        try:
            import torch

            importlib.import_module("advlab.attacks")  # every numerical package that units of work need
            provenance = importlib.import_module("advlab.store.provenance")
            store = importlib.import_module("advlab.store.files")
            importlib.import_module("advlab.extensions").load()
        except Exception as error:  # whatever a broken installation raises
            told = " ".join(f"{type(error).__name__}: {error}".split())
            return *machine, f"cannot run advlab ({told}); install the project there, for the Python that runs Ray"
        if provenance.code() != conditions.code:
            return *machine, "has another version of advlab; bring all machines to the same one"
        if conditions.use_gpu and not torch.cuda.is_available():
            return *machine, "has no GPU that PyTorch can use; mend its driver, or leave --num-gpus out"
        if conditions.file is not None and not store.Store(conditions.file[0]).exists(conditions.file[1]):
            return *machine, f"does not see {'/'.join(conditions.file)!r}; choose an --out that all machines share"
        # Small batched tensor work loses an order of magnitude when threads outnumber the actor's cores.
        torch.set_num_threads(conditions.threads)
        self.device = torch.device("cuda" if conditions.use_gpu else "cpu")
        if shared != self._shared:  # what is remembered may come of what was shared before
            self._memo.clear()
        self._shared = shared
        self._fetched = {key: held for key, held in self._fetched.items() if shared.get(key) == held[0]}
        return *machine, ""

    @ray.method(concurrency_group="status")
    def status(self) -> str:
        return self._note

    def note(self, text: str) -> None:
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
        if key not in self._fetched:
            self._fetched[key] = self._shared[key], ray.get(self._shared[key])
        return self._fetched[key][1]

    def memo(self, key: str, make: Callable[[], Any]) -> Any:
        if key not in self._memo:
            self._memo[key] = make()
            if len(self._memo) > self.MEMO_ENTRIES:
                self._memo.popitem(last=False)
        self._memo.move_to_end(key)
        return self._memo[key]


def _can_travel(error: BaseException) -> bool:
    """Whether the driver would get this error as it is, and not one of Ray in its place."""
    if isinstance(error, KeyboardInterrupt):
        return False
    try:
        ray.cloudpickle.loads(ray.cloudpickle.dumps(error))
    except Exception:
        return False
    return True
