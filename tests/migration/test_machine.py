"""A state machine over ledger, engine and simulated fleet: whatever is done in whatever order, the promises hold.

After every rule the tables are read (`soak.checks`): no CPU of two guests, what is counted as used is what the claims
add up to, one current claim for each guest and a second one only for a migration in progress; and the hosts: each guest
runs on one host at most, where it holds a claim, and no two guests' threads on one CPU, but for guests that a named
exception took out of the promise. `settle` brings everything to an end and looks for what is left over.

A failure prints the rules that lead to it. The same examples again: pytest tests/migration/test_machine.py
--hypothesis-seed=N, with the N that hypothesis printed. NUMAFERRY_MACHINE_EXAMPLES says how many are tried.
"""

from __future__ import annotations

import contextlib
import os

import attrs
import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from numaferry.errors import Conflict, HypervisorError, NotConfirmed, NotFound
from numaferry.ledger import open_ledger, store
from numaferry.model import CpuSet
from numaferry.virt.simulated import SCENARIOS
from soak import checks, databases
from soak.controllers import LATER, POLICY, Broken
from soak.story import bring_to_an_end
from soak.troubles import TROUBLES, Trouble
from soak.world import World, guest_xml

EXAMPLES = int(os.environ.get("NUMAFERRY_MACHINE_EXAMPLES", "12"))
STEPS = 35

#: One of the guests, or hosts, that there are: the machine takes the drawn number modulo how many there are.
which = st.integers(0, 11)
#: What befalls a controller: nothing as often as something.
troubles = st.lists(
    st.sampled_from(sorted(TROUBLES)).flatmap(
        lambda row: st.builds(Trouble, st.just(row[0]), st.integers(1, row[1]), st.just(row[2]))
    ),
    max_size=2,
)


@contextlib.contextmanager
def broken_is_a_failure():
    """A broken promise, which no handler of the engine swallows, is one that hypothesis reports and shrinks."""
    try:
        yield
    except Broken as broken:
        raise AssertionError(str(broken)) from broken


class Machine(RuleBasedStateMachine):
    """Everything that can be done to a small fleet and its ledger."""

    #: Returns an empty ledger.
    empty = None

    @initialize(seed=st.integers(0, 20))
    def begin(self, seed):
        self.world = World(seed, type(self).empty())
        self.fleet, self.ledger = self.world.fleet, self.world.ledger
        # a job takes long enough to be found running
        self.fleet.bandwidth_mib_s = 16
        self.strangers = 0

    def teardown(self):
        if hasattr(self, "world"):
            self.world.close()

    # -- choosing ------------------------------------------------------------------------------------------------

    def instance(self, number):
        """One of the instances in the ledger, or None."""
        known = sorted(self.ledger.instances(), key=lambda one: one.name)
        return known[number % len(known)] if known else None

    def host(self, number):
        return sorted(self.fleet.hosts)[number % len(self.fleet.hosts)]

    def reachable(self, host):
        return self.fleet.reachable("controller", host)

    def drive(self, befalls, work, policy=POLICY):
        """Let a new controller work, whatever befalls it; returns the controller."""
        made = self.world.controller(0, policy)
        made.troubles = [attrs.evolve(one) for one in befalls]
        with broken_is_a_failure():
            made.run(work)
        return made

    # -- guests --------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.ledger.instances()) < 5)
    @rule()
    def adopt(self):
        """A guest is started where there is room by the ledger, and adopted; where the host is silent it can't be."""
        if all(self.reachable(host) for host in self.fleet.hosts):
            self.world.audit(self.fleet.hosts)
            number = len(self.fleet.lives) + 1
            self.legal(self.world.add_guest, f"g{number}", number)

    @precondition(lambda self: self.strangers < 3)
    @rule(number=which, cpu=st.integers(0, 15), wide=st.booleans())
    def stranger(self, number, cpu, wide):
        """Somebody starts a guest on CPUs of a host, whoever they are promised to; nobody adopts it."""
        host = self.fleet.hosts[self.host(number)]
        cells = [cell for cell in host.topology.cells if cpu in cell.cpus]
        if host.alive and cells:
            self.strangers += 1
            cpus = sorted(cells[0].cpus - CpuSet.of(range(cpu)))[: 2 if wide else 1]
            xml = guest_xml(f"s{self.strangers}", f"net-{host.name}", [cpus], [cells[0].id], 100 + self.strangers)
            try:
                uuid = self.fleet.start_guest(host.name, xml)
            except HypervisorError:
                return
            self.world.excepted(uuid, "nobody adopted it")

    @rule(number=which, reason=st.sampled_from(["shutdown", "crashed", "destroyed"]))
    def guest_ends(self, number, reason):
        instance = self.instance(number)
        for host in self.fleet.running_on(instance.uuid) if instance else ():
            self.fleet.end_guest(host, instance.uuid, reason)

    @rule(number=which)
    def guest_is_started(self, number):
        """A person starts a guest that is off, where the ledger says that it is."""
        instance = self.instance(number)
        if instance is None or instance.uuid in self.fleet.active():
            return
        host = self.fleet.hosts[instance.host]
        domain = host.domains.get(instance.uuid)
        if host.alive and domain is not None and domain.persistent:
            self.world.excepted(instance.uuid, "a person started it anew")
            try:
                self.fleet.start_guest(host.name, domain.persistent)
            except HypervisorError:
                return

    @rule(number=which)
    def forget(self, number):
        instance = self.instance(number)
        if instance is not None and self.legal(self.ledger.forget_instance, instance.uuid) is None:
            self.world.excepted(instance.uuid, "it was forgotten")

    # -- moving --------------------------------------------------------------------------------------------------

    @rule(number=which, dest=which, befalls=troubles)
    def claim(self, number, dest, befalls):
        """A controller claims and dies before it drives."""
        instance, name = self.instance(number), self.host(dest)
        if instance is not None:
            controller = self.drive(befalls, lambda engine: engine.start(instance, name))
            self.world.dead.add(controller.name)

    @rule(number=which, befalls=troubles, scenario=st.none() | st.sampled_from(sorted(SCENARIOS)))
    def migrate(self, number, befalls, scenario):
        instance = self.instance(number)
        if instance is not None:
            if scenario:
                self.fleet.inject_named(scenario)
            self.drive(befalls, lambda engine: engine.drive(engine.start(instance).id))
            self.fleet.forget_faults()

    @rule(number=which, mib=st.integers(0, 100))
    def controller_dies_while_the_job_runs(self, number, mib):
        instance = self.instance(number)
        if instance is not None:
            self.fleet.inject("perform", "client-dies", after_bytes=mib << 20)
            self.drive([], lambda engine: engine.drive(engine.start(instance).id))
            self.fleet.forget_faults()

    @rule(number=which, avoid=st.integers(0, 15), befalls=troubles)
    def repin(self, number, avoid, befalls):
        instance = self.instance(number)
        if instance is not None:
            own = instance.numa_topology.owned_cpus
            avoided = CpuSet.of([sorted(own)[avoid % len(own)]])
            self.drive(befalls, lambda engine: engine.drive(engine.repin(instance, avoided).id))

    @precondition(lambda self: self.world.in_progress())
    @rule(number=which, befalls=troubles, knows=st.booleans())
    def recover(self, number, befalls, knows):
        """One that knows of the death comes at once, else when lease and longest call are over."""
        moves = self.world.in_progress()
        move = moves[number % len(moves)]
        gone = move.controller if knows and move.controller in {"", *self.world.dead} else None
        if gone is None:
            self.fleet.advance(12)
        self.drive(befalls, lambda engine: engine.recover(move.id, left_by=gone), LATER)

    @precondition(lambda self: self.world.in_progress())
    @rule(number=which)
    def abort(self, number):
        moves = self.world.in_progress()
        self.ledger.request_abort(moves[number % len(moves)].id)

    # -- hosts ---------------------------------------------------------------------------------------------------

    @rule(number=which)
    def audit(self, number):
        self.world.audit([self.host(number)])

    @rule(number=which)
    def look_for_who_is_gone(self, number):
        """What discovery does, with no grace: a transient guest that is missing twice is released, and only then."""
        host = self.host(number)
        if not self.reachable(host):
            return
        looked_at = self.ledger.now()
        present = {domain.uuid for domain in self.fleet.hypervisor(host).domains()}
        names = {one.name: one.uuid for one in self.ledger.instances()}
        released = self.legal(self.ledger.note_present, host, present, 0.0, looked_at) or ()
        assert not {names[name] for name in released} & self.fleet.active(), "a guest that runs was released"

    @rule(number=which)
    def host_dies(self, number):
        if self.fleet.hosts[self.host(number)].alive:
            self.fleet.kill_host(self.host(number))

    @rule()
    def everything_is_mended(self):
        self.world.mend()

    @rule(number=which)
    def libvirtd_restarts(self, number):
        self.fleet.restart_libvirtd(self.host(number))

    @rule(number=which, other=which)
    def network_is_cut(self, number, other):
        ends = [*sorted(self.fleet.hosts), "controller"]
        self.fleet.cut(self.host(number), ends[other % len(ends)])

    @rule(number=which, left_out=st.sets(st.integers(0, 15), max_size=6))
    def sets_change(self, number, left_out):
        """The operator takes CPUs out of the dedicated set, promised or not, or gives them back."""
        host = self.host(number)
        shared = CpuSet.parse("0-1")
        dedicated = self.fleet.hosts[host].topology.cpus - shared - CpuSet.of(left_out)
        config = attrs.evolve(self.ledger.host(host).config, cpu_dedicated_set=dedicated)
        self.legal(self.ledger.confirm_host, host, config)

    @rule(number=which)
    def host_is_removed_and_added_again(self, number):
        host = self.host(number)
        config = self.ledger.host(host).config
        if not self.reachable(host) or self.legal(self.ledger.remove_host, host) is False:
            return
        self.ledger.add_host(host, self.fleet.hypervisor(host).facts(), config, confirmed=True)
        self.world.audit([host])

    @rule(seconds=st.sampled_from([0.5, 3, 40]))
    def time_passes(self, seconds):
        self.fleet.advance(seconds)

    # -- what has to hold ----------------------------------------------------------------------------------------

    @rule()
    def settle(self):
        """The world heals, everything is recovered, a person answers: nothing is left over."""
        self.fleet.forget_faults()
        self.world.mend()
        for move in self.world.in_progress():
            with broken_is_a_failure():
                bring_to_an_end(self.world, move.id)
        self.world.undefine_leftovers()
        wrong = list(checks.ended(self.fleet, self.ledger, set(self.world.exceptions)))
        assert wrong == [], self.story()

    @invariant()
    def the_promises_hold(self):
        if not hasattr(self, "world"):
            return
        wrong = [
            *checks.tables(self.ledger, lowered=True),
            *checks.reality(self.fleet, self.ledger, set(self.world.exceptions)),
        ]
        assert wrong == [], self.story()

    def legal(self, call, *arguments):
        """Call, and return False where the answer is one of the legal refusals."""
        try:
            return call(*arguments)
        except (Conflict, NotConfirmed, NotFound):
            return False

    def story(self):
        return "\n".join([*(event.sentence for event in self.ledger.events()), *self.fleet.story])


def run(empty, examples, monkeypatch):
    """Let the machine run on ledgers of one kind."""
    monkeypatch.setattr(store, "PAUSE_S", 0.0)
    monkeypatch.setattr(Machine, "empty", staticmethod(empty))
    checked = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples, stateful_step_count=STEPS, deadline=None, suppress_health_check=checked
        ),
    )


def test_law_whatever_is_done_the_promises_hold(monkeypatch):
    with databases.directory() as where, databases.sqlite(where) as empty:
        run(empty, EXAMPLES, monkeypatch)


def test_law_whatever_is_done_the_promises_hold_on_postgresql(postgresql, monkeypatch):
    opened = []

    def empty():
        for ledger in opened:
            ledger.close()
        opened[:] = [open_ledger(postgresql.empty_ledger())]
        return opened[0]

    try:
        run(empty, max(1, EXAMPLES // 4), monkeypatch)
    finally:
        for ledger in opened:
            ledger.close()
