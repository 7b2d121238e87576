"""The world of one story: hosts, guests, the ledger, and everybody who does something in it."""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING, Any

import attrs

from numaferry.audit import update_available_resource
from numaferry.errors import LeaseHeld, NumaferryError
from numaferry.migration.answers import Answer
from numaferry.migration.evidence import Phase, phase_of
from numaferry.model import IN_PROGRESS, CpuSet, HostConfig, Instance, Ownership
from numaferry.request import parse_domain
from numaferry.request.adoption import adopt
from numaferry.virt.simulated import ClientDied, Fleet
from soak import checks
from soak.controllers import LATER, POLICY, STOP_S, Broken, Controller, Watch
from soak.tally import NOBODY, Tally
from soak.troubles import draw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numaferry.audit import Finding
    from numaferry.ledger import Ledger
    from numaferry.model import Migration

#: Notation of a host → its shared set; all its other CPUs are dedicated.
SHAPES = {
    "2 cells x 4 cores x 2 threads, 4G, 2M:256": "0-1",
    "2 cells x 3 cores x 1 thread, 2G, 2M:80": "0",
    "4 cells x 2 cores x 2 threads, 4G, 2M:128": "0-1",
}
NAMES = ("alpha", "beta", "gamma", "delta")


def guest_xml(name: str, link: str, cells: list[list[int]], host_cells: list[int], number: int) -> str:
    """Return a guest of 2 MiB pages whose vCPUs are pinned one to one; `cells` are CPUs per guest cell."""
    cpus = [cpu for cell in cells for cpu in cell]
    pins = "".join(f"<vcpupin vcpu='{vcpu}' cpuset='{cpu}'/>" for vcpu, cpu in enumerate(cpus))
    nodes = "".join(f"<memnode cellid='{at}' mode='strict' nodeset='{host}'/>" for at, host in enumerate(host_cells))
    numa, first = "", 0
    for at, cell in enumerate(cells):
        numa += f"<cell id='{at}' cpus='{first}-{first + len(cell) - 1}' memory='64' unit='MiB'/>"
        first += len(cell)
    return f"""
<domain type='kvm'><name>{name}</name><memory unit='MiB'>{64 * len(cells)}</memory>
<memoryBacking><hugepages><page size='2048' unit='KiB'/></hugepages></memoryBacking>
<vcpu placement='static'>{len(cpus)}</vcpu>
<cputune>{pins}<emulatorpin cpuset='{",".join(map(str, cpus))}'/></cputune>
<numatune><memory mode='strict' nodeset='{",".join(map(str, host_cells))}'/>{nodes}</numatune>
<os><type arch='x86_64' machine='q35'>hvm</type></os><cpu><numa>{numa}</numa></cpu><devices>
<interface type='direct'><mac address='52:54:00:00:00:{number:02x}'/><source dev='{link}' mode='bridge'/></interface>
</devices></domain>"""


class StoryFleet(Fleet):
    """A fleet that counts the faults that strike, and notes which guests are outside the promise from then on, why."""

    def __init__(self, name: str, world: World) -> None:
        super().__init__(name, seed=world.seed, bandwidth_mib_s=24)
        self.world = world

    def tell(self, sentence: str) -> None:
        """Add a line to the story, and count it if it is a fault's."""
        super().tell(sentence)
        if sentence.startswith("fault: "):
            self.world.struck(sentence.removeprefix("fault: "))

    def kill_host(self, name: str) -> None:
        """Let a host die; guests that have no process any more are lost with it."""
        before = {uuid for uuid, domain in self.hosts[name].domains.items() if domain.state.active}
        super().kill_host(name)
        for uuid in before - self.active():
            self.world.excepted(uuid, "its host died")

    def end_guest(self, host: str, uuid: str, reason: str = "shutdown") -> None:
        """Let a guest end by itself."""
        super().end_guest(host, uuid, reason)
        self.world.excepted(uuid, "it ended by itself")

    def force_running(self, host: str, uuid: str) -> None:
        """Run a guest whatever runs elsewhere."""
        super().force_running(host, uuid)
        self.world.excepted(uuid, "others ran it twice")

    def active(self) -> set[str]:
        """Return all guests that have a process on any host."""
        return {uuid for host in self.hosts.values() for uuid, one in host.domains.items() if one.state.active}

    def forget_faults(self) -> None:
        """Let what has not struck by now never strike."""
        self._faults.clear()

    def undefine(self, host: str, uuid: str) -> None:
        """Take a domain that is off from a host, as a person does."""
        self.hosts[host].domains.pop(uuid, None)
        self.tell(f"{host}: a person undefines the guest")


@attrs.define(eq=False)
class World:
    """One story's world, built from its seed."""

    seed: int
    ledger: Ledger
    rng: random.Random = attrs.field(init=False)
    fleet: StoryFleet = attrs.field(init=False)
    tally: Tally = attrs.field(factory=Tally, init=False)
    exceptions: dict[str, str] = attrs.field(factory=dict, init=False)
    #: Controllers that died.
    dead: set[str] = attrs.field(factory=set, init=False)
    #: Domains that a person has ended and means to undefine.
    leftovers: list[tuple[str, str]] = attrs.field(factory=list, init=False)
    #: What was drawn, for who reads of a failure.
    drawn: list[str] = attrs.field(factory=list, init=False)
    _driving: list[Controller] = attrs.field(factory=list, init=False)
    _watches: list[Watch] = attrs.field(factory=list, init=False)
    _number: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self.rng = random.Random(self.seed)  # noqa: S311  (repeatable on purpose)
        self.fleet = StoryFleet(f"soak-{self.seed}", self)
        self.fleet.observe(self._tick)
        for name in NAMES[: self.rng.randint(3, 4)]:
            self.add_host(name)
        for number in range(1, self.rng.randint(2, 3) + 1):
            self.add_guest(f"g{number}", number)

    def close(self) -> None:
        """Forget the fleet."""
        self.fleet.close()

    # hosts and guests

    def add_host(self, name: str, shape: str = "") -> None:
        """Add a host of some shape to fleet and ledger, confirmed."""
        shape = shape or self.rng.choice(list(SHAPES))
        link = f"net-{name}"
        host = self.fleet.add_host(name, shape, links=(link,))
        config = HostConfig(
            cpu_dedicated_set=host.topology.cpus - CpuSet.parse(SHAPES[shape]),
            cpu_shared_set=CpuSet.parse(SHAPES[shape]),
            reserved_host_memory_mb=64,
            physical_networks=(("physnet0", link),),
        )
        self.ledger.add_host(name, self.fleet.hypervisor(name).facts(), config, confirmed=True)

    def add_guest(self, name: str, number: int) -> str | None:
        """Start and adopt a guest wherever there is room; returns its UUID, or None where there is none."""
        wanted = self.rng.choice([1, 2])
        for host in self.rng.sample(list(self.fleet.hosts), len(self.fleet.hosts)):
            free = self._free_cpus(host)
            if len(free) < wanted:
                continue
            chosen = self.rng.sample(sorted(free), wanted)
            cells = [free[cell][:2] for cell in chosen]
            xml = guest_xml(name, f"net-{host}", cells, chosen, number)
            dirty_mib_s = self.rng.choice([0, 0, 40])
            uuid = self.fleet.start_guest(host, xml, persistent=self.rng.random() < 0.5, dirty_mib_s=dirty_mib_s)
            self.adopt(host, uuid, marked=self.rng.random() < 0.5)
            return uuid
        return None

    def _free_cpus(self, host: str) -> dict[int, list[int]]:
        """Return the cells that have two free dedicated CPUs and memory, with their free CPUs."""
        state = self.ledger.host_state(host)
        cells = {cell.id: sorted(cell.free_dedicated) for cell in state.cells}
        return {cell: cpus for cell, cpus in cells.items() if len(cpus) >= 2}

    def adopt(self, host: str, uuid: str, *, marked: bool) -> None:
        """Claim what a running guest has; `marked` writes its mark too, as adoption does if it can."""
        hypervisor = self.fleet.hypervisor(host)
        seen = hypervisor.domain(uuid)
        assert seen is not None  # noqa: S101  (it was just started)
        needs = parse_domain(seen.xml)
        record = self.ledger.host(host)
        adoption = adopt(needs, record.config.cpu_dedicated_set, record.facts.topology)
        assert adoption.flavor is not None  # noqa: S101  (it was made to be adopted)
        assert adoption.request is not None  # noqa: S101  (the same)
        instance = Instance(
            uuid=uuid,
            name=seen.name,
            host=host,
            flavor=adoption.flavor,
            request=adoption.request,
            numa_topology=adoption.numa_topology,
            vifs=needs.vifs,
            persistent=seen.persistent,
        )
        claim = self.ledger.claim_instance(instance)
        if marked:
            hypervisor.set_ownership(uuid, Ownership(self.ledger.ledger_id, claim.id))

    # what is counted

    def struck(self, kind: str) -> None:
        """Count a fault that struck, by the step of whoever drives at this moment."""
        if not kind.startswith(("controller", "ledger", "step", "a COMMIT", "another")):
            action, _, point = kind.partition(" at ")
            edge = {"call": "before a call", "return": "after a call"}.get(point.partition(".")[0], f"in {point}")
            kind = f"{action} {edge}"
        self.tally.faults[kind, self._driving[-1].step if self._driving else NOBODY] += 1

    def excepted(self, uuid: str, reason: str) -> None:
        """Note that a guest is outside the promise from now on."""
        self.exceptions.setdefault(uuid, reason)

    # controllers

    def controller(self, most: int, policy: Any = POLICY) -> Controller:
        """Return a new controller with up to so many troubles before it."""
        self._number += 1
        made = Controller(self, f"c{self._number}", draw(self.rng, most), policy)
        self.drawn.append(f"{made.name}: {', '.join(map(str, made.troubles)) or 'no trouble'}")
        return made

    @contextlib.contextmanager
    def driven_by(self, controller: Controller) -> Iterator[None]:
        """Let a controller drive; whoever drove before it stands still meanwhile."""
        watches, self._watches = self._watches, []
        self._driving.append(controller)
        try:
            yield
        finally:
            self._driving.pop()
            self._watches = watches

    def beside(self, call: Callable[[], None], look: Callable[[], object], every_s: float) -> None:
        """Make the blocking call in this thread, and look after each so many seconds of the fleet's clock."""
        watch = Watch(look, every_s, self.fleet.now_s + every_s)
        self._watches.append(watch)
        try:
            call()
        finally:
            self._watches.remove(watch)

    def _tick(self, fleet: Fleet) -> None:
        if self._watches:
            self._watches[-1].tick(fleet.now_s)

    def in_progress(self) -> tuple[Migration, ...]:
        """Return migrations that have not ended."""
        return self.ledger.migrations(status=IN_PROGRESS)

    def recover(self, number: int, most: int = 0) -> Exception | None:
        """Let a new controller recover a migration that nobody drives, as one that comes late or knows of a death."""
        gone = self.ledger.migration(number).controller
        left_by = gone if gone in {"", *self.dead} and self.rng.random() < 0.5 else None
        if left_by is None:
            self.fleet.advance(STOP_S)
        return self.controller(most, LATER).recover(number, left_by)

    def stop(self, controller: Controller) -> None:
        """Stop a controller for longer than its lease; others take over what it drives, then it goes on."""
        watches, self._watches = self._watches, []
        mine = [move for move in self.in_progress() if move.controller == controller.name]
        self.fleet.advance(STOP_S)
        controller.cut()
        for move in mine:
            if self.rng.random() < 0.85:
                self.recover(move.id, most=self.rng.choice([0, 0, 1, 2]))
            if self.ledger.migration(move.id).token > move.token:
                self.tally.events["controllers taken over that went on"] += 1
                controller.overtake(move.id)
        self._watches = watches

    def impatient(self, controller: Controller) -> None:
        """Let one more controller try to take over what a slow one drives: it has to be refused."""
        self.fleet.advance(1)
        for move in self.in_progress():
            if move.controller == controller.name:
                error = self.controller(0, POLICY).recover(move.id)
                if not isinstance(error, LeaseHeld):
                    raise Broken(f"a controller that came too early was not refused: {error!r}")
                self.tally.events["controllers that came too early were refused"] += 1

    def meanwhile(self, controller: Controller) -> None:
        """Let something else happen in the middle of what a controller does; if it takes long, that one was stopped."""
        began = self.fleet.now_s
        moving = {move.instance_uuid for move in self.in_progress()}
        others = [one.uuid for one in self.ledger.instances() if one.uuid not in moving]
        what = self.rng.choice(["audit", "abort", "move", "move"])
        self.tally.events[f"meanwhile: {what}"] += 1
        if what == "audit":
            self.audit(self.fleet.hosts)
        elif what == "abort":
            for move in self.in_progress():
                if move.controller == controller.name:
                    self.ledger.request_abort(move.id)
        elif others and len(self._driving) < 3:
            self.move(self.rng.choice(sorted(others, key=self.name_of)), most=1)
        if self.fleet.now_s - began > POLICY.ttl_s:
            controller.cut()

    def name_of(self, uuid: str) -> str:
        """Return an instance's name, by which things are sorted: UUIDs are not the seed's."""
        instance = self.ledger.instance_by_uuid(uuid)
        return instance.name if instance else ""

    def move(self, uuid: str, most: int) -> Exception | None:
        """Move a guest to wherever, with a controller of its own."""
        instance = self.ledger.instance_by_uuid(uuid)
        if instance is None:
            return None
        dest = self.rng.choice([None, *(name for name in sorted(self.fleet.hosts) if name != instance.host)])
        return self.controller(most).run(lambda engine: engine.drive(engine.start(instance, dest).id))

    def repin(self, uuid: str, most: int) -> Exception | None:
        """Give a guest other CPUs on its host."""
        instance = self.ledger.instance_by_uuid(uuid)
        if instance is None or instance.numa_topology is None:
            return None
        own = sorted(instance.numa_topology.owned_cpus)
        avoid = CpuSet.of(self.rng.sample(own, self.rng.randint(1, len(own))))
        return self.controller(most).run(lambda engine: engine.drive(engine.repin(instance, avoid).id))

    def audit(self, hosts: Iterable[str]) -> list[Finding]:
        """Audit these hosts, if they can be reached and whoever audits lives to the end; returns the findings."""
        findings: list[Finding] = []
        for name in hosts:
            with contextlib.suppress(NumaferryError, ClientDied):
                result = update_available_resource(self.ledger, name, self.fleet.hypervisor(name))
                findings += result.findings
        return findings

    def mend(self) -> None:
        """Mend the network and boot what died; look at it again once its daemon is back: it is closed until then."""
        self.fleet.heal()
        dead = [host.name for host in self.fleet.hosts.values() if not host.alive]
        for name in dead:
            self.fleet.boot_host(name)
        self.fleet.advance(5)
        self.audit(dead)

    # a person

    def person(self, move: Migration) -> None:
        """Do what a person does who looks at both hosts: leave one copy of the guest, or say that it is gone."""
        self.tally.events["a person was needed"] += 1
        uuid, fleet = move.instance_uuid, self.fleet
        copies = {name: fleet.hosts[name].domains.get(uuid) for name in (move.source, move.dest)}
        active = [name for name, copy in copies.items() if copy is not None and copy.state.active]
        running = [name for name in active if (copy := copies[name]) is not None and copy.running]
        if phase_of(move) in {Phase.SWITCHED, Phase.CONFIRMED}:
            # there is no way back to the source
            active, running = ([name] if (name := move.dest) in kept else [] for kept in (active, running))
        keep = self.rng.choice(running or active or [""])
        for name, copy in copies.items():
            if copy is not None and name != keep:
                Fleet.end_guest(fleet, name, uuid, "destroyed")
                if not keep or self.rng.random() < 0.5:
                    fleet.undefine(name, uuid)
                else:
                    self.leftovers.append((name, uuid))
        if keep and not running:
            Fleet.force_running(fleet, keep, uuid)
        if not keep:
            self.excepted(uuid, "a person gave it up")
            controller = self.controller(0, LATER)
            controller.run(lambda engine: engine.answer(move.id, Answer.GUEST_IS_GONE))

    def undefine_leftovers(self) -> None:
        """Undefine what a person has ended and meant to undefine."""
        for host, uuid in self.leftovers:
            domain = self.fleet.hosts[host].domains.get(uuid)
            if domain is not None and not domain.state.active:
                self.fleet.undefine(host, uuid)
        self.leftovers.clear()

    # looking

    def traces(self, number: int) -> object:
        """Return everything in which one that drives a migration could leave a trace, in the ledger and on hosts."""
        move = self.ledger.migration(number)
        events = len(self.ledger.events(migration=number))
        claims = checks.claims(self.ledger)[move.instance_uuid]
        domains = [
            (name, domain.state, domain.live, domain.persistent)
            for name, host in self.fleet.hosts.items()
            if (domain := host.domains.get(move.instance_uuid)) is not None
        ]
        return move, events, claims, domains

    def check(self) -> None:
        """Raise Broken where something does not hold that has to hold at every moment."""
        wrong = [*checks.tables(self.ledger), *checks.reality(self.fleet, self.ledger, set(self.exceptions))]
        if wrong:
            raise Broken("; ".join(wrong))
