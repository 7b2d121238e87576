"""A deterministic fleet: hosts, guests, a clock, faults. The same calls with the same seed give the same story.

The clock moves when `live_migration` waits for its job, when `advance` is called, and, with `automatic` (the default)
by one tick at every call of the port while nobody waits, so that code which polls gets on. No real time is needed.
"""

from __future__ import annotations

import random
import threading
import time
import uuid as uuids
from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

from numaferry.errors import Conflict, HostUnreachable, InvalidInput, NotFound
from numaferry.model import CpuSet, DomainState, HostTopology, StoragePool
from numaferry.model.notation import parse_topology
from numaferry.virt.simulated import registry
from numaferry.virt.simulated.faults import ACTIONS, CONTROLLER, POINTS, SCENARIOS, Event, Fault
from numaferry.virt.simulated.guest_xml import as_defined, read_config, without_id
from numaferry.virt.simulated.host import SimDomain, SimHost
from numaferry.virt.simulated.hypervisor import SimulatedHypervisor
from numaferry.virt.simulated.job import LOST, Phase
from numaferry.virt.simulated.storage import GIB, SimImage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numaferry.model import JobInfo
    from numaferry.virt.simulated.job import MigrationJob

#: The guest's counter counts tenths of a second that it ran.
COUNTS_PER_S = 10
DAEMON_RESTART_S = 2.0


@attrs.define(slots=True)
class Life:
    """One guest across hosts: how far its counter is, and whether it ever ran on two hosts at once."""

    counter: float = 0.0
    #: How often it was booted, as distinct from moved.
    starts: int = 0
    #: Seconds that it ran on two or more hosts at once; never undone.
    twice_s: float = 0.0
    #: Paths at which it found something else after a move than it had written.
    lost_disks: list[str] = attrs.field(factory=list)


class Fleet:
    """Simulated hosts under one clock; registered under its name for ``sim://NAME/HOST`` until `close`."""

    def __init__(
        self,
        name: str = "sim",
        *,
        seed: int = 0,
        tick_s: float = 0.1,
        automatic: bool = True,
        bandwidth_mib_s: int = 256,
        pace_s: float = 0.0,
    ) -> None:
        self.name = name
        self.tick_s = tick_s
        self.automatic = automatic
        self.bandwidth_mib_s = bandwidth_mib_s
        #: Real seconds that a waiting `live_migration` sleeps per tick, so that people or threads can watch.
        self.pace_s = pace_s
        self.now_s = 0.0
        self.hosts: dict[str, SimHost] = {}
        self.lives: dict[str, Life] = {}
        self.jobs: dict[str, MigrationJob] = {}
        self.completed: dict[tuple[str, str], JobInfo] = {}
        #: What each guest dirties per second while it runs.
        self.dirty_mib_s: dict[str, int] = {}
        #: What happened, one line each: two runs with one seed give equal stories.
        self.story: list[str] = []
        self.lock = threading.RLock()
        self._random = random.Random(seed)  # noqa: S311  (repeatable on purpose)
        self._cuts: set[frozenset[str]] = set()
        self._faults: list[list[Fault | int]] = []
        self._observers: list[Callable[[Fleet], None]] = []
        self._waiting = 0
        registry.register(self)

    # building

    def add_host(
        self,
        name: str,
        topology: str | HostTopology,
        *,
        links: Iterable[str] | Mapping[str, bool] = ("eth0",),
        networks: Iterable[str] = (),
    ) -> SimHost:
        """Add a host from a topology or its notation; `links` are names, all up, or name → up. Raises Conflict."""
        if name in self.hosts or name == CONTROLLER:
            raise Conflict(f"the fleet has a {name!r} already", hint="give the host another name")
        made = parse_topology(topology) if isinstance(topology, str) else topology
        host = SimHost(
            name=name,
            uri=self.uri(name),
            uuid=str(uuids.uuid5(uuids.NAMESPACE_URL, self.uri(name))),
            topology=made,
            links=dict(links) if isinstance(links, Mapping) else dict.fromkeys(links, True),
            networks=set(networks),
        )
        self.hosts[name] = host
        return host

    def add_pool(
        self,
        host: str,
        name: str,
        target: str,
        *,
        kind: str = "dir",
        source: Iterable[tuple[str, str]] = (),
        room_bytes: int = 1024 * GIB,
    ) -> None:
        """Add an active storage pool whose images lie in the directory `target`."""
        self.host(host).pools[name] = StoragePool(name, kind, target, tuple(source), room_bytes)

    def add_image(
        self, host: str, path: str, *also: str, size_mib: int = 64, kind: str = "raw", content: str = "data"
    ) -> SimImage:
        """Put a disk image on a host, and the very same file on the hosts `also`."""
        image = SimImage(kind, size_mib << 20, size_mib << 19, content)
        for name in (host, *also):
            self.host(name).files[path] = image
        return image

    def uri(self, host: str) -> str:
        """Return the URI of a host of this name."""
        return f"sim://{self.name}/{host}"

    def host(self, name: str) -> SimHost:
        """Return the host of this name. Raises NotFound."""
        if name not in self.hosts:
            raise NotFound(f"fleet {self.name} has no host {name!r}", hint=f"it has {', '.join(self.hosts) or 'none'}")
        return self.hosts[name]

    def hypervisor(self, name: str) -> SimulatedHypervisor:
        """Return the port of a host. Raises NotFound, HostUnreachable."""
        self.check_reachable(self.host(name))
        return SimulatedHypervisor(self, self.host(name))

    def close(self) -> None:
        """Forget the fleet's name; safe to repeat."""
        registry.forget(self)

    # guests

    def start_guest(self, host: str, xml: str, *, persistent: bool = True, dirty_mib_s: int = 0) -> str:
        """Boot a guest and return its UUID, given where the XML has none. Raises HypervisorError as libvirt."""
        with self.lock:
            place = self.host(host)
            made = as_defined(xml, str(uuids.UUID(int=self._random.getrandbits(128), version=4)))
            domain = place.begin(made, reason="starting-up", persistent=without_id(made) if persistent else None)
            domain.state, domain.reason = DomainState.RUNNING, "booted"
            life = self.lives.setdefault(domain.uuid, Life())
            life.counter, life.starts = 0.0, life.starts + 1
            self.dirty_mib_s[domain.uuid] = dirty_mib_s
            self.tell(f"{host}: {domain.name} booted")
            return domain.uuid

    def define_guest(self, host: str, xml: str) -> str:
        """Define a persistent guest that is off, and return its UUID."""
        with self.lock:
            made = as_defined(xml, str(uuids.UUID(int=self._random.getrandbits(128), version=4)))
            config = read_config(made)
            self.host(host).domains[config.uuid] = SimDomain(
                config.uuid, config.name, DomainState.SHUTOFF, "unknown", live=None, persistent=without_id(made)
            )
            return config.uuid

    def end_guest(self, host: str, uuid: str, reason: str = "shutdown") -> None:
        """Let the guest end by itself: "shutdown", "crashed" or "destroyed"."""
        with self.lock:
            self.host(host).end(uuid, reason)
            self.tell(f"{host}: guest ended, {reason}")

    def counter(self, uuid: str) -> int:
        """Return how far the guest has counted; it goes on only while exactly one host runs it."""
        return int(self.lives[uuid].counter)

    def running_on(self, uuid: str) -> tuple[str, ...]:
        """Return the hosts on which this guest's vCPUs run now."""
        return tuple(
            host.name
            for host in self.hosts.values()
            if host.alive and (domain := host.domains.get(uuid)) is not None and domain.running
        )

    def set_kernel_mask(self, host: str, uuid: str, vcpu: int, cpus: CpuSet) -> None:
        """Move a vCPU thread behind libvirt's back (taskset): the XML keeps what it said."""
        self.host(host).domains[uuid].vcpu_masks[vcpu] = cpus

    def force_running(self, host: str, uuid: str) -> None:
        """Run the guest here whatever runs elsewhere: what libvirt never does and a person can."""
        domain = self.host(host).domains[uuid]
        domain.state, domain.reason = DomainState.RUNNING, "unpaused"
        self.tell(f"{host}: {domain.name} was made to run")

    # hosts and network

    def cut(self, one: str, other: str) -> None:
        """Cut the network between two hosts, or a host and "controller"."""
        self._cuts.add(frozenset({one, other}))
        self.tell(f"network cut: {one}, {other}")

    def heal(self) -> None:
        """Mend every cut."""
        self._cuts.clear()
        self.tell("network healed")

    def restart_libvirtd(self, name: str) -> None:
        """Restart a daemon: guests run on, clients are cut off, and its jobs end as libvirt's recovery ends them."""
        host = self.host(name)
        host.daemon_back_at = self.now_s + DAEMON_RESTART_S
        self.tell(f"{name}: libvirtd restarts")
        self.completed = {key: info for key, info in self.completed.items() if key[0] != name}
        for job in self.jobs.values():
            if job.ended or name not in {job.source.name, job.dest.name}:
                continue
            if job.phase is Phase.CONFIRM:
                if job.source.name == name:
                    job.leave_paused_copy()
            elif job.source.name == name and job.phase is Phase.FINISH:
                job.orphan()
            else:
                job.fail(LOST)

    def kill_host(self, name: str) -> None:
        """Let a host die with all its guests; it answers again after `boot_host`."""
        host = self.host(name)
        host.alive = False
        self.tell(f"{name}: dies")
        for job in self.jobs.values():
            if not job.ended and name == job.source.name:
                job.leave_paused_copy() if job.phase is Phase.CONFIRM else job.orphan()
        for uuid, domain in list(host.domains.items()):
            if domain.state.active:
                host.end(uuid, "unknown")

    def boot_host(self, name: str) -> None:
        """Boot a host that died; persistent guests are defined and off."""
        host = self.host(name)
        host.alive, host.booted_at = True, self.now_s
        self.tell(f"{name}: boots")

    def reachable(self, one: str, other: str) -> bool:
        """Tell whether two hosts (or "controller" and a host) can talk, daemons included."""
        hosts = [self.hosts[name] for name in (one, other) if name in self.hosts]
        up = all(host.alive and self.now_s >= host.daemon_back_at for host in hosts)
        return up and frozenset({one, other}) not in self._cuts

    def check_reachable(self, host: SimHost) -> None:
        """Raise HostUnreachable where the controller can't talk to this host's daemon."""
        if not self.reachable(CONTROLLER, host.name):
            raise HostUnreachable(
                f"{host.uri}: unable to connect to server at '{host.name}:16509': No route to host",
                hint="heal the network, boot the host, or wait for its libvirtd",
            )

    # faults

    def inject(
        self, point: str, action: str, *, uuid: str = "", host: str = "", after_bytes: int = 0, times: int = 1
    ) -> None:
        """Let an action of `faults.ACTIONS` happen at a point of `faults.POINTS`. Raises InvalidInput for others."""
        if point not in POINTS or action not in ACTIONS:
            raise InvalidInput(
                f"no fault {action!r} at {point!r}", hint=f"points {', '.join(POINTS)}; actions {', '.join(ACTIONS)}"
            )
        self._faults.append([Fault(point, action, uuid, host, after_bytes, times), times])

    def inject_named(self, scenario: str, *, uuid: str = "") -> None:
        """Inject a fault of `faults.SCENARIOS` by its name. Raises InvalidInput."""
        if scenario not in SCENARIOS:
            raise InvalidInput(f"no fault is called {scenario!r}", hint=", ".join(SCENARIOS))
        self.inject(*SCENARIOS[scenario], uuid=uuid)

    def trigger(self, event: Event) -> None:
        """Pass a point: let every fault that waits for it strike; may raise what the action raises."""
        for entry in list(self._faults):
            fault, left = entry
            if isinstance(fault, Fault) and isinstance(left, int) and left > 0 and event.matches(fault):
                entry[1] = left - 1
                self.tell(f"fault: {fault.action} at {event.point}")
                ACTIONS[fault.action](self, event)

    # the clock

    def observe(self, observer: Callable[[Fleet], None]) -> None:
        """Call this after every tick, outside the lock: to watch, abort, or break things at a moment of your own."""
        self._observers.append(observer)

    def tick(self) -> None:
        """Let one tick pass."""
        with self.lock:
            self.now_s = round(self.now_s + self.tick_s, 6)
            for uuid, life in self.lives.items():
                places = len(self.running_on(uuid))
                if places == 1:
                    life.counter = round(life.counter + self.tick_s * COUNTS_PER_S, 6)
                elif places > 1:
                    life.twice_s += self.tick_s
            for job in list(self.jobs.values()):
                job.step()
        for observer in list(self._observers):
            observer(self)

    def advance(self, seconds: float) -> None:
        """Let so much time pass, in ticks."""
        for _ in range(round(seconds / self.tick_s)):
            self.tick()

    def touch(self) -> None:
        """Count one call of the port as a tick, where the clock is automatic and nobody waits."""
        if self.automatic and not self._waiting:
            self.tick()

    def wait(self, job: MigrationJob, watch: Callable[[], None]) -> None:
        """Let time pass until the job has ended; `watch` is called after each tick and may raise."""
        with self.lock:
            self._waiting += 1
        try:
            while not job.ended:
                self.tick()
                watch()
                if self.pace_s:
                    time.sleep(self.pace_s)
        finally:
            with self.lock:
                self._waiting -= 1

    def tell(self, sentence: str) -> None:
        """Add a line to the story."""
        self.story.append(f"{self.now_s:9.1f} {sentence}")
