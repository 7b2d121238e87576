"""A hypothesis state machine on a small ledger; after every step the invariants hold and the figures agree.

On PostgreSQL the same is tried with fewer examples: what differs there is the schema, not what can be done.

A failure prints the steps that lead to it; the seed is printed by hypothesis (`--hypothesis-seed`).
"""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace

import attrs
import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text

from numaferry.errors import Conflict, NoFit, NotConfirmed, NotFound
from numaferry.ledger import ObservedUse, open_ledger
from numaferry.ledger.amounts import capacities
from numaferry.ledger.explain import explain
from numaferry.ledger.names import device_name
from numaferry.ledger.usage import host_usage
from numaferry.model import (
    EMPTY,
    IN_PROGRESS,
    CellRequest,
    CpuSet,
    Flavor,
    HostConfig,
    HostFacts,
    Instance,
    InstanceCell,
    InstanceNumaTopology,
    MigrationStatus,
    MigrationType,
    NumaRequest,
    PciAddress,
    PciDevice,
    PciRequest,
    Promise,
)
from numaferry.model.codec import loads
from numaferry.model.notation import parse_topology

NAMES = ("A", "B", "C")
SHAPES = ("2 cells x 2 cores x 2 threads, 256M, 2M:32", "2 cells x 2 cores x 2 threads, 256M, 2M:16")
CONFIG = HostConfig(CpuSet.parse("2-7"), CpuSet.parse("0-1"), reserved_host_memory_mb=16, cpu_allocation_ratio=2.0)
#: What the API may answer; anything else fails the test, Overcommitted (a fault of ours) above all.
LEGAL = (Conflict, NoFit, NotConfirmed, NotFound)

DEVICES = tuple(PciDevice(PciAddress.parse(f"0000:81:00.{n}"), "8086", "1572") for n in range(3))
WISH = (PciRequest("nic", 1, (("8086", "1572"),)),)
#: Examples, and steps of each.
EXAMPLES = {"sqlite": 10, "postgresql": 4}

hosts = st.sampled_from(NAMES)
cpus = st.sets(st.integers(0, 7), min_size=1, max_size=4).map(CpuSet.of)
sizes = st.sampled_from([None, 2048])
rarely = st.sampled_from([False, False, False, True])
#: No disk under it: what is tested is not the disk.
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108  (a directory of its own is made in it)


def facts_of(name, shape):
    return HostFacts(name, f"uuid-{name}", f"test:///{name}", parse_topology(shape), 9_000_000, 7_002_000)


def legal(call, *arguments, **named):
    """Call, and return None where the answer is one of the legal refusals."""
    try:
        return call(*arguments, **named)
    except LEGAL:
        return None


class LedgerMachine(RuleBasedStateMachine):
    """Everything that can be done to a ledger of three hosts, in any order."""

    guests = Bundle("guests")

    @initialize(target=guests)
    def open(self):
        self.ledger = open_ledger(self.empty())
        self.number = 0
        self.generations = {}
        for name in NAMES:
            self.ledger.add_host(name, facts_of(name, SHAPES[0]), CONFIG, confirmed=True)
        self.ledger.set_devices("B", DEVICES[:2])
        return self.pinned("A", CpuSet.parse("4-5"), 2048, 24)

    def teardown(self):
        if hasattr(self, "ledger"):
            self.ledger.close()

    @rule(
        target=guests,
        host=hosts,
        on=cpus,
        size=sizes,
        memory_mib=st.sampled_from([8, 24, 60]),
        more=st.fixed_dictionaries({}, optional={"wish": st.just(WISH), "persistent": st.sampled_from([False])}),
    )
    def adopt_pinned(self, host, on, size, memory_mib, more):
        return self.pinned(host, on, size, memory_mib, **more)

    def pinned(self, host, on, size, memory_mib, *, wish=(), persistent=True):
        every = CpuSet.of(range(len(on)))
        cell = CellRequest(0, every, every, memory_mib * 1024, size)
        pins = tuple(enumerate(on))
        placed = InstanceCell(0, every, every, memory_mib * 1024, size or 4, on.first() // 4, pins)
        request = NumaRequest(len(on), memory_mib * 1024, (cell,), "dedicated", pci_requests=wish)
        return self.adopt(host, request, InstanceNumaTopology((placed,)), persistent=persistent)

    @rule(target=guests, host=hosts, vcpus=st.integers(1, 5), memory_mib=st.sampled_from([8, 100, 400]))
    def adopt_floating(self, host, vcpus, memory_mib):
        return self.adopt(host, NumaRequest(vcpus, memory_mib * 1024), None)

    @rule(target=guests, host=hosts, cell=st.integers(0, 1), vcpus=st.integers(1, 2), memory_mib=st.integers(8, 90))
    def adopt_shared(self, host, cell, vcpus, memory_mib):
        every = CpuSet.of(range(vcpus))
        request = NumaRequest(vcpus, memory_mib * 1024, (CellRequest(0, every, EMPTY, memory_mib * 1024),))
        placed = InstanceCell(0, every, EMPTY, memory_mib * 1024, 4, cell)
        return self.adopt(host, request, InstanceNumaTopology((placed,)))

    def instance(self, host, request, topology, *, persistent=True):
        self.number += 1
        flavor = Flavor("f", request.vcpus, request.memory_kib // 1024)
        uuid, name = f"guest-{self.number}", f"g{self.number}"
        return Instance(uuid, name, host, flavor, request, topology, persistent=persistent)

    @rule(target=guests, candidates=st.permutations(NAMES), vcpus=st.integers(1, 3), wish=st.sampled_from([(), WISH]))
    def place(self, candidates, vcpus, wish):
        every = CpuSet.of(range(vcpus))
        cell = CellRequest(0, every, every, 8 * 1024, 2048)
        request = NumaRequest(vcpus, 8 * 1024, (cell,), "dedicated", pci_requests=wish)
        instance = self.instance("", request, None)
        claim = legal(self.ledger.place_instance, instance, candidates)
        assert claim is None or len(claim.instance.pci_devices) == len(wish)
        return instance.uuid

    def adopt(self, host, request, topology, *, persistent=True):
        instance = self.instance(host, request, topology, persistent=persistent)
        claim = legal(self.ledger.claim_instance, instance)
        assert claim is None or (claim.instance.promise is Promise.CONFLICTED) == (
            bool(claim.conflicts) and topology is not None
        )
        return instance.uuid

    @rule(uuid=guests, candidates=st.permutations(NAMES))
    def claim(self, uuid, candidates):
        claim = legal(self.ledger.live_migration_claim, uuid, candidates)
        if claim is not None:
            assert claim.instance.migration_context is not None
            assert claim.migration.dest != claim.instance.host

    @rule(uuid=guests)
    def repin(self, uuid):
        claim = legal(self.ledger.repin_claim, uuid)
        if claim is not None:
            assert claim.migration.source == claim.migration.dest == claim.instance.host

    @rule(host=hosts, devices=st.sets(st.sampled_from(DEVICES)))
    def look_at_devices(self, host, devices):
        self.ledger.set_devices(host, devices)

    @rule(host=hosts, there=st.sets(st.integers(1, 9)))
    def look_who_is_there(self, host, there):
        moving = {move.instance_uuid for move in self.ledger.migrations() if move.in_progress}
        before = {one.name: one for one in self.ledger.instances(host)}
        for name in self.ledger.note_present(host, {f"guest-{number}" for number in there}, 0):
            assert not before[name].persistent
            assert before[name].uuid not in moving

    def move(self, ended):
        """Return the id of a migration: the newest in progress, or, to try what comes too late, the newest ended."""
        moves = [move.id for move in self.ledger.migrations() if move.in_progress != ended]
        return moves[-1] if moves else 99

    @rule(uuid=guests, candidates=st.permutations(NAMES), ends=st.booleans())
    def claim_and_confirm(self, uuid, candidates, ends):
        self.claim(uuid, candidates)
        self.confirm(ended=False, ends=ends)

    @precondition(lambda self: self.ledger.migrations())
    @rule(ended=rarely, ends=st.booleans())
    def confirm(self, ended, ends):
        legal(self.ledger.confirm_migration, self.move(ended), status=MigrationStatus.COMPLETED if ends else None)

    @precondition(lambda self: self.ledger.migrations())
    @rule(ended=rarely, status=st.sampled_from([MigrationStatus.FAILED, MigrationStatus.CANCELLED]))
    def drop(self, ended, status):
        legal(self.ledger.drop_move_claim, self.move(ended), status, "given up")

    @precondition(lambda self: self.ledger.migrations())
    @rule(ended=rarely, status=st.sampled_from(sorted(MigrationStatus)))
    def set_status(self, ended, status):
        """Any status but a return of an ended migration, which the transition table of the engine rules out."""
        if not (ended and status in IN_PROGRESS):
            legal(self.ledger.set_migration, self.move(ended), status=status, sentence=f"set to {status} by the test")

    @rule(uuid=consumes(guests))
    def forget(self, uuid):
        legal(self.ledger.forget_instance, uuid)

    @rule(uuid=guests)
    def reclaim(self, uuid):
        known = self.ledger.instance_by_uuid(uuid)
        if known is not None:
            legal(self.ledger.reclaim_instance, uuid, known.numa_topology)

    @rule(host=hosts, uses=st.lists(st.tuples(cpus, st.booleans(), st.integers(0, 40)), max_size=2), own=st.booleans())
    def observe(self, host, uses, own):
        seen = [
            ObservedUse(
                f"stray-{host}-{n}", f"s{n}", EMPTY if floating else on, floating, 1, pages * 2048, ((0, 2048, pages),)
            )
            for n, (on, floating, pages) in enumerate(uses)
        ]
        for instance in self.ledger.instances(host) if own else ():
            on = instance.numa_topology.owned_cpus if instance.numa_topology else EMPTY
            seen.append(
                ObservedUse(instance.uuid, instance.name, on, not on, 1, instance.request.memory_kib, managed=True)
            )
        self.ledger.set_observed(host, seen)

    @rule(host=hosts, shape=st.sampled_from(SHAPES))
    def rediscover(self, host, shape):
        self.ledger.update_host(host, facts_of(host, shape))

    @rule(host=hosts, dedicated=st.sampled_from(["2-7", "4-7", "2-3", ""]), ratio=st.sampled_from([1.0, 1.5, 4.0]))
    def confirm_host(self, host, dedicated, ratio):
        config = attrs.evolve(CONFIG, cpu_dedicated_set=CpuSet.parse(dedicated), ram_allocation_ratio=ratio)
        self.ledger.confirm_host(host, config)

    # -- the invariants ------------------------------------------------------------------------------------------

    @invariant()
    def everything_holds(self):
        """One look at the ledger after every step, and every check on it."""
        self.moves = [move for move in self.ledger.migrations() if move.in_progress]
        self.views = {name: self.ledger.view(name) for name in NAMES}
        self.no_cpu_is_promised_twice_and_none_is_held_by_nobody()
        self.used_is_what_the_claims_add_up_to()
        self.one_current_claim_and_at_most_one_more()
        self.no_device_is_held_by_nobody_and_each_is_known_to_its_guest()
        self.a_claim_that_is_not_current_belongs_to_a_migration_in_progress()
        self.host_state_is_capacity_less_claims_less_observed()
        self.usage_by_account_adds_up_to_the_claims()
        self.the_explanation_names_every_holder()
        self.generations_only_grow()

    def rows(self, statement):
        with self.ledger._read() as connection:
            return connection.execute(text(statement)).all()

    def no_cpu_is_promised_twice_and_none_is_held_by_nobody(self):
        held = self.rows(
            "SELECT c.host_id, c.cpu FROM claim_cpu c LEFT JOIN claim_cpu_link l USING (host_id, cpu)"
            " WHERE l.claim_id IS NULL"
        )
        assert held == []
        for name in NAMES:
            owners = defaultdict(set)
            for holding in self.views[name].holdings:
                for cpu in holding.cpu_set:
                    owners[cpu].add(holding.instance_uuid)
            assert all(len(guests) == 1 for guests in owners.values())

    def used_is_what_the_claims_add_up_to(self):
        """Two claims of one guest on one host, a re-pin's, count once."""
        for row in self.rows(
            "SELECT c.used, c.cell, (SELECT coalesce(sum(most), 0) FROM (SELECT max(amount) AS most FROM claim_amount a"
            " WHERE a.host_id = c.host_id AND a.resource = c.resource AND (c.cell = -1 OR a.cell = c.cell)"
            " GROUP BY a.instance_uuid, a.cell) AS held) AS claimed FROM capacity c"
        ):
            assert row.used == row.claimed

    def no_device_is_held_by_nobody_and_each_is_known_to_its_guest(self):
        held = self.rows(
            "SELECT d.host_id, d.device, d.instance_uuid, l.claim_id FROM claim_device d"
            " LEFT JOIN claim_device_link l USING (host_id, device)"
        )
        assert all(row.claim_id is not None for row in held)
        for row in self.rows("SELECT id, promise, pci_devices_json FROM claim"):
            promised = {one.device for one in held if one.claim_id == row.id}
            noted = {device_name(device) for device in loads(row.pci_devices_json, tuple[PciDevice, ...])}
            assert promised <= noted
            assert promised == noted or row.promise != Promise.KEPT

    def one_current_claim_and_at_most_one_more(self):
        for row in self.rows(
            "SELECT i.uuid, count(c.id) AS claims, count(DISTINCT c.host_id) AS hosts,"
            " sum(CASE WHEN c.id = i.current_claim THEN 1 ELSE 0 END) AS current"
            " FROM instance i JOIN claim c ON c.instance_uuid = i.uuid GROUP BY i.uuid"
        ):
            assert row.current == 1
            assert row.claims <= 2
            (kind, *_) = [move.migration_type for move in self.moves if move.instance_uuid == row.uuid] or [None]
            assert row.claims == row.hosts or (kind, row.hosts) == (MigrationType.REPIN, 1)

    def a_claim_that_is_not_current_belongs_to_a_migration_in_progress(self):
        for row in self.rows(
            "SELECT m.status FROM claim c JOIN instance i ON i.uuid = c.instance_uuid LEFT JOIN migration m"
            " ON m.id = c.migration_id WHERE c.id <> i.current_claim"
        ):
            assert row.status in {"accepted", "queued", "preparing", "running", "post-migrating", "error"}

    def host_state_is_capacity_less_claims_less_observed(self):
        """Counted again in the plainest way, from views, without the code under test."""
        for name in NAMES:
            view, state = self.views[name], self.ledger.host_state(name)
            assert state == view.state
            if not view.record.confirmed:
                continue
            promised = {cpu for holding in view.holdings for cpu in holding.cpu_set}
            seen = {cpu for use in view.observed for cpu in use.pinned_cpus}
            for cell in state.cells:
                assert set(cell.free_dedicated) == set(cell.dedicated) - promised - seen
                pages = self.pages_held(view, cell.id)
                strays = sum(count for use in view.observed for on, _, count in use.pages if on == cell.id)
                assert cell.pool(2048).used == pages + strays

    def pages_held(self, view, cell):
        """Count the pages of a cell that are held: for each guest, the larger of what its claims hold."""
        most = Counter()
        for holding in view.holdings:
            for one in holding.amounts:
                if (one.cell, one.resource) == (cell, "page:2048"):
                    most[holding.instance_uuid] = max(most[holding.instance_uuid], one.amount)
        return most.total()

    def usage_by_account_adds_up_to_the_claims(self):
        for name in NAMES:
            usage, view = host_usage(SimpleNamespace(view=self.views.__getitem__), name), self.views[name]
            pages = Counter()
            for cell in usage.cells:
                assert cell.own.cpus.isdisjoint(cell.incoming.cpus | cell.outgoing.cpus)
                pages.update(dict(cell.total.pages))
            assert pages[2048] == sum(self.pages_held(view, cell) for cell in (0, 1))

    def the_explanation_names_every_holder(self):
        for name in NAMES:
            view = self.views[name]
            told = explain(view)
            by_guest = {one.cpu: [who.instance_uuid for who in one.holders if who.claim_id] for one in told.cpus}
            for holding in view.holdings:
                assert all(by_guest[cpu] == [holding.instance_uuid] for cpu in holding.cpu_set)
            limits = capacities(view.record.facts.topology, view.record.config) if view.record.confirmed else {}
            assert {(-1 if pool.cell is None else pool.cell, pool.resource) for pool in told.pools} >= set(limits)

    def generations_only_grow(self):
        now = {host.name: host.generation for host in self.ledger.hosts()}
        assert all(now[name] >= before for name, before in self.generations.items())
        self.generations = now


def test_any_order_of_operations(dialect, request, tmp_path):
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        files = (Path(folder) / f"{number}.sqlite" for number in range(1_000_000))

        class Machine(LedgerMachine):
            def empty(self):
                """Return the URL of an empty ledger."""
                if dialect == "postgresql":
                    return request.getfixturevalue("postgresql").empty_ledger()
                return str(next(files))

        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=EXAMPLES[dialect],
                stateful_step_count=30,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            ),
        )
