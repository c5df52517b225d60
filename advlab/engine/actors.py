"""The actors of a pool: their size, and their number as the cluster grows and shrinks."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from typing import Any

import ray

from advlab.engine.worker import _Worker
from advlab.errors import UserError
from advlab.store import Store, provenance

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolOptions:
    """Size of the pool."""

    actors: int | None = None
    """Largest number of actors; by default as many as there is work for and the cluster has, or can get, room for."""
    num_cpus: float = 1.0
    """CPUs per actor, and number of threads that PyTorch uses in it."""
    num_gpus: float = 0.0
    """GPUs per actor; 0.25 lets four actors share one."""
    memory: float = 0.0
    """GiB of main memory per actor: no machine gets more actors than fit; 0 for no limit."""

    def __post_init__(self) -> None:
        if self.actors is not None and self.actors < 1:
            raise UserError(f"--actors {self.actors} is impossible; choose at least 1.")
        if min(self.num_cpus, self.num_gpus, self.memory) < 0:
            raise UserError(f"{self.size} is impossible; none of these may be negative.")

    @property
    def size(self) -> str:
        """The size of an actor as options of the command line."""
        memory = f" --memory {self.memory:g}" if self.memory else ""
        return f"--num-cpus {self.num_cpus:g} --num-gpus {self.num_gpus:g}{memory}"

    @property
    def demand(self) -> dict[str, float]:
        """The resources that an actor needs, by Ray's names; memory in bytes."""
        wanted = {"CPU": self.num_cpus, "GPU": self.num_gpus, "memory": self.memory * 2**30}
        return {resource: amount for resource, amount in wanted.items() if amount}


class Actors:
    """The actors, by number.

    Ray restarts an actor whose machine vanishes, wherever there is room. On an ``elastic`` cluster more actors are
    requested than there is room for: pending actors are the demand that an autoscaler sees. Raises a UserError when
    not one actor fits the machine, and no other can join.
    """

    def __init__(self, options: PoolOptions, *, elastic: bool) -> None:
        self.options, self.elastic = options, elastic
        self.actors: dict[int, Any] = {}
        self.required_file: tuple[str, str] | None = None
        self.file_seen = False
        self._numbers = count()
        self._alive: set[int] = set()
        self._proven = False
        self._unfit: dict[str, str] = {}
        self._init_failures = 0
        actor: dict[str, Any] = {
            "num_cpus": options.num_cpus,
            "num_gpus": options.num_gpus,
            "memory": int(options.memory * 2**30) or None,
            "max_restarts": -1,
            "max_task_retries": 0,
            "scheduling_strategy": "SPREAD",
            "concurrency_groups": {"status": 1},  # so that an actor can report its progress while it works
        }
        self._class: Any = ray.remote(**actor)(_Worker)
        if not elastic and not self.room():
            total = ray.cluster_resources()
            raise UserError(
                f"no actor of {options.size} fits this machine ({total.get('CPU', 0):g} CPUs, "
                f"{total.get('GPU', 0):g} GPUs, {total.get('memory', 0) / 2**30:.1f} GiB); ask for less."
            )

    def require_file(self, folder: str, name: str, restore: Callable[[], None]) -> None:
        self.required_file, self.restore = (folder, name), restore
        self.file_seen = self._sees_file()

    def _sees_file(self) -> bool:
        return self.required_file is not None and Store(self.required_file[0]).exists(self.required_file[1])

    def room(self) -> int:
        """Number of actors that the live and usable machines have room for."""
        usable = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in self._unfit]
        demand = self.options.demand.items()
        return sum(min((int(has.get(name, 0) / amount) for name, amount in demand), default=1) for has in usable)

    def wanted(self, units: int) -> int:
        """Number of actors wanted for a number of units."""
        room = self.room() - self._init_failures
        most = 2 * room if self.elastic else room
        if self.options.actors:
            most = self.options.actors if self.elastic else min(most, self.options.actors)
        return min(max(1, most), units)

    def waiting(self) -> list[int]:
        """The actors that wait to be started or restarted."""
        return [actor for actor in self.actors if actor not in self._alive]

    def start(self, number: int) -> list[int]:
        """Create actors; Ray starts each when there is room."""
        elsewhere = {"ray.io/node-id": f"!in({','.join(self._unfit)})"} if self._unfit else None
        started = [next(self._numbers) for _ in range(number)]
        self.actors |= {actor: self._class.options(label_selector=elsewhere).remote() for actor in started}
        return started

    def kill(self, actors: Iterable[int]) -> None:
        """Kill these actors, even at work."""
        for actor in list(actors):
            ray.kill(self.actors.pop(actor))

    def ready(self, actor: int, shared: dict[str, ray.ObjectRef]) -> ray.ObjectRef:
        """Ask an actor whether it can work; the call is lost if Ray is about to restart it."""
        return self.actors[actor].ready.remote(
            shared,
            threads=max(1, int(self.options.num_cpus)),
            use_gpu=self.options.num_gpus > 0,
            code=provenance.code(),
            file=self.required_file,
        )

    def reported(self, actor: int, node: str, address: str, complaint: str) -> None:
        """Record that an actor is alive; a machine that cannot do the work gets no further actors.

        Raises a UserError when no machine can do the work and none will join, or the required file is gone.
        """
        if not complaint:
            self._alive.add(actor)
            self._proven = True
            return
        self.kill([actor])
        if node not in self._unfit:
            self._unfit[node] = complaint
            what, _, fix = complaint.rpartition("; ")
            problem = f"the machine at {address} {what}"
            if self.file_seen and not self._sees_file():
                self.restore()
                raise UserError(
                    f"{'/'.join(self.required_file or ())!r} was removed while its study was running; it is written "
                    "again, and finished work is kept beside it: run the same command again."
                )
            if not self.room() and not (self._proven and self.elastic):
                raise UserError(f"{problem}, and there is no other machine; {fix}.")
            logger.warning("%s and is not used; %s.", problem, fix)

    def lost(self, actor: int) -> None:
        """Record that an actor died; Ray is about to restart it."""
        self._alive.discard(actor)

    def init_failed(self, actor: int, reason: str) -> None:
        """Record that an actor failed in its constructor, which Ray does not retry; a UserError if all others did."""
        self.actors.pop(actor)
        self._init_failures += 1
        if not self._proven and not self.actors:
            raise UserError(f"no actor can be started ({reason}); fix the Python environment of the cluster.")
