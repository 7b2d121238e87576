"""Leases as an engine lives under them: stopped and taken over, cut off from the ledger, and other people's clocks.

The lease runs on the database's clock and a controller's deadline on its own, which here is the fleet's. A controller
that is *stopped* is one whose clock goes on by the lease and the longest call while it does nothing. `LATER` is the
policy of one that comes when as much time has passed for the database: it may take over at once.
"""

import contextlib
import time

import attrs
import pytest

from numaferry.errors import LeaseHeld, LeaseLapsed, LedgerError, LedgerUnusable, TakenOver
from numaferry.migration.lease import CHANGING, MARGIN, UNGUARDED, Lease, LeasePolicy, guarded
from numaferry.migration.steps import STEPS, first_after
from numaferry.model import MigrateCall, MigrationPolicy, MigrationStatus, Ownership, XmlKind
from numaferry.virt.port import Hypervisor
from numaferry.virt.simulated import ClientDied
from numaferry.virt.simulated.job import MigrationJob

NAMES = [step.name for step in STEPS]
POLICY = LeasePolicy()
LATER = LeasePolicy(longest_call_s=-POLICY.ttl_s)
DEADLINE_S = POLICY.ttl_s * (1 - MARGIN)
#: Methods of the port that only read, those that ask for nothing, and the name of the host.
READING = {
    *("uri", "facts", "free_pages", "domains", "domain", "domain_xml", "thread_masks", "check_vifs"),
    *("job", "completed_job", "same_connection", "close"),
    *("guest_support", "look_at_memory", "storage", "disk_sizes"),
}


class Wire:
    """A hypervisor that tells what is asked of it; `hooks` are called after the n-th call of a method by (name, n)."""

    def __init__(self, hypervisor, calls, hooks):
        self._hypervisor, self._calls, self._hooks = hypervisor, calls, hooks

    def __getattr__(self, name):
        value = getattr(self._hypervisor, name)
        if not callable(value) or name in UNGUARDED:
            return value

        def call(*args, **kwargs):
            self._calls.append(name)
            result = value(*args, **kwargs)
            self._hooks.pop((name, self._calls.count(name)), lambda: None)()
            return result

        return call


@attrs.define
class Watched:
    """A controller whose calls to hosts are counted."""

    site: object
    calls: list = attrs.field(factory=list)
    #: What happens after the n-th call of a method: (name, n) → function.
    after: dict = attrs.field(factory=dict)

    def engine(self, **more):
        def connect(record):
            return Wire(self.site.fleet.hypervisor(record.name), self.calls, self.after)

        def audit(host):
            self.calls.append(f"audit {host}")
            return self.site.audit(host)

        return self.site.engine(connect=connect, audit=audit, **more)

    def traces(self):
        """Everything that this controller, or anybody, can have left behind."""
        return len(self.calls), list(self.site.fleet.story), self.site.sentences()


def moved(name, where):
    """Whether a migration that is left at this point has to end on the destination."""
    return name in NAMES[first_after(STEPS) :] or (name, where) == ("live_migration", "after")


# stopped for longer than the lease and the longest call


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("name", NAMES)
def test_one_that_was_stopped_in_a_step_and_taken_over_touches_no_host_and_writes_nothing(site, name, where):
    uuid = site.guest()
    stopped, traces = Watched(site), []

    def stop():
        if not traces:
            site.fleet.advance(POLICY.ttl_s + POLICY.longest_call_s)
            site.engine(lease=LATER, controller="the second").recover(1)
            traces.append(stopped.traces())

    engine = stopped.engine(steps=site.altered(name, **{where: stop}))
    migration = engine.start(site.ledger.instance("db1"), "beta")
    with pytest.raises(TakenOver):
        engine.drive(migration.id)
    assert [stopped.traces()] == traces, "it went on after it was taken over"
    assert site.ledger.migration(1).controller == "the second"
    site.settled(uuid, moved=moved(name, where))


@pytest.mark.parametrize("name", NAMES)
def test_one_that_was_stopped_in_a_step_and_not_taken_over_goes_on(site, name):
    """A lease that ran out and that nobody took is renewed: who would take it waits for longer."""
    uuid = site.guest()
    pauses = []

    def stop():
        if not pauses:
            pauses.append(site.fleet.advance(POLICY.ttl_s + POLICY.longest_call_s))

    engine = site.engine(steps=site.altered(name, before=stop))
    assert engine.drive(engine.start(site.ledger.instance("db1"), "beta").id).status is MigrationStatus.COMPLETED
    site.settled(uuid, moved=True)


def test_one_that_comes_too_early_is_told_how_long_to_wait(site):
    uuid = site.guest()
    engine = site.engine()
    migration = engine.start(site.ledger.instance("db1"), "beta")
    for early in (site.engine(), site.engine(lease=LeasePolicy(longest_call_s=1))):
        with pytest.raises(LeaseHeld) as caught:
            early.recover(migration.id)
    assert caught.value.retryable
    assert f"may still be driven by {engine.controller}" in caught.value.message
    left_s = int(caught.value.message.rpartition(" in ")[2].removesuffix(" s"))
    assert 25 <= left_s <= 31, "the lease of 30 s and a longest call of 1 s"
    assert engine.drive(migration.id).status is MigrationStatus.COMPLETED
    site.settled(uuid, moved=True)


# taken over between two calls


def test_every_method_of_the_port_is_known_to_read_or_to_change():
    methods = {name for name in vars(Hypervisor) if not name.startswith("_")}
    assert methods - CHANGING == READING
    assert methods >= CHANGING


def fake(methods):
    """Return a hypervisor that has these methods, without a connection."""
    return type("Fake", (), {"same_connection": lambda _self: contextlib.nullcontext(), **methods})()


@pytest.mark.parametrize("method", sorted(CHANGING))
def test_a_changing_call_reads_the_lease_right_before(site, method):
    site.guest()
    migration = site.engine().start(site.ledger.instance("db1"), "beta")
    lease = Lease.of(site.ledger, migration, 30.0, lambda: 0.0, ours=True)
    asked = []
    methods = {name: lambda _self, name=name: asked.append(name) for name in (method, "facts")}
    host = guarded(fake(methods), lambda: lease)
    getattr(host, method)()
    site.taken_over(migration.id)
    with pytest.raises(TakenOver):
        getattr(host, method)()
    host.facts()
    assert asked == [method, "facts"], "reading is allowed until the deadline, changing is not"


def begun(site, **fault):
    """A migration whose first controller, "the first", died of a fault of the fleet while it drove; returns its id."""
    engine = site.engine(controller="the first")
    migration = engine.start(site.ledger.instance("db1"), "beta", MigrationPolicy(bandwidth_mib_s=64))
    site.fleet.inject(**fault)
    with pytest.raises(ClientDied):
        engine.drive(migration.id)
    return migration.id


def test_one_that_is_taken_over_before_it_starts_the_job_starts_none(site):
    uuid = site.guest()
    watched = Watched(site)
    engine = watched.engine()
    migration = engine.start(site.ledger.instance("db1"), "beta")
    watched.after["set_ownership", 1] = lambda: site.taken_over(migration.id)
    with pytest.raises(TakenOver):
        engine.drive(migration.id)
    assert watched.calls[-1] == "set_ownership"
    assert site.fleet.jobs == {}
    site.recover(migration.id)
    site.settled(uuid, moved=False)


def test_one_that_is_taken_over_before_it_aborts_the_job_leaves_it(site):
    uuid = site.guest()
    number = begun(site, point="perform", action="client-dies", after_bytes=1)
    site.ledger.request_abort(number)
    watched = Watched(site)
    # the first look decides to adopt the job, the second is its watch's
    watched.after["job", 2] = lambda: site.taken_over(number)
    with pytest.raises(TakenOver):
        watched.engine().recover(number, left_by="the first")
    assert watched.calls[-1] == "job"
    assert not site.fleet.jobs[uuid].abort_requested
    site.recover(number)
    site.settled(uuid, moved=False)


def test_one_that_is_taken_over_before_it_resumes_the_guest_leaves_it_paused(site):
    uuid = site.guest()
    number = begun(site, point="finish", action="client-dies-with-its-job")
    watched = Watched(site)
    # the last thing that is asked before a guest is resumed: is the destination the machine that was claimed?
    watched.after["facts", 1] = lambda: site.taken_over(number)
    with pytest.raises(TakenOver):
        watched.engine().recover(number, left_by="the first")
    assert watched.calls[-1] == "facts"
    assert site.fleet.running_on(uuid) == ()
    site.recover(number)
    site.settled(uuid, moved=False)


def test_one_that_was_taken_over_at_its_last_commit_was_told_that_a_completed_migration_can_t_complete(site):
    """It read the other's status, and asked its table of transitions before it asked whose migration it was."""
    site.guest()

    def audited(host):
        if host == "beta":
            site.recover(1, lease=LATER)
        return site.audit(host)

    engine = site.engine(audit=audited)
    migration = engine.start(site.ledger.instance("db1"), "beta")
    with pytest.raises(TakenOver):
        engine.drive(migration.id)


# a ledger that can't be reached


class Away:
    """A ledger of which nothing can be written from a moment on."""

    def __init__(self, ledger):
        self._ledger, self.away = ledger, False

    def __getattr__(self, name):
        value = getattr(self._ledger, name)

        def call(*args, **kwargs):
            if self.away and name in {"renew_lease", "set_migration", "drop_lease"}:
                raise LedgerUnusable("the ledger can't be reached")
            return value(*args, **kwargs)

        return call if callable(value) else value


def test_while_the_ledger_is_away_hosts_are_read_until_the_deadline_and_no_longer(site):
    """The destination is silent, so all that the controller does is to look at both hosts every two seconds."""
    uuid = site.guest()
    number = begun(site, point="finish", action="client-dies")
    site.fleet.cut("controller", "beta")
    ledger, times = Away(site.ledger), []

    def connect(record):
        times.append(site.fleet.now_s)
        hypervisor = site.fleet.hypervisor(record.name)
        return Wire(hypervisor, calls, {})

    class Times(list):
        def append(self, name):
            super().append(name)
            times.append(site.fleet.now_s)

    def sleep(seconds):
        ledger.away = True
        site.fleet.advance(seconds)

    calls = Times()
    engine = site.engine(ledger, connect=connect, sleep=sleep, waits=50)
    began = site.fleet.now_s
    with pytest.raises(LeaseLapsed):
        engine.recover(number, left_by="the first")
    assert len(times) > 10
    assert DEADLINE_S - 4 < times[-1] - began < DEADLINE_S
    site.fleet.heal()
    site.recover(number)
    site.settled(uuid, moved=True)


@pytest.mark.parametrize("method", ["facts", *sorted(CHANGING)])
def test_a_call_to_a_host_while_the_ledger_is_away(site, method):
    """A reading one is made until the deadline; a changing one is made only when the ledger has just answered."""
    site.guest()
    migration = site.engine().start(site.ledger.instance("db1"), "beta")
    ledger, now = Away(site.ledger), [0.0]
    lease = Lease.of(ledger, migration, POLICY.ttl_s, lambda: now[0], ours=True)
    asked = []
    host = guarded(fake({method: lambda _self: asked.append(now[0])}), lambda: lease)
    lease.renew()
    ledger.away = True
    for now[0] in (0.0, DEADLINE_S / 2, DEADLINE_S - 0.1):
        if method in CHANGING:
            with pytest.raises(LedgerUnusable):
                getattr(host, method)()
        else:
            getattr(host, method)()
    made = len(asked)
    assert made == (0 if method in CHANGING else 3)
    now[0] = DEADLINE_S
    with pytest.raises(LedgerError) as caught:
        getattr(host, method)()
    assert len(asked) == made, "a call was made past the deadline"
    if method not in CHANGING:
        assert isinstance(caught.value, LeaseLapsed)
        assert "its lease of 30 s could not be renewed in time" in caught.value.message
        assert f"numaferry migration recover {migration.id}" in caught.value.hint
    ledger.away = False
    getattr(host, method)()
    assert len(asked) == made + 1, "the lease ran out and nobody took it: it is ours again"


# clocks and marks


@pytest.mark.parametrize("hours", [-5, 5, 24 * 365])
def test_a_controller_s_wall_clock_that_is_wrong_by_hours_changes_nothing(site, monkeypatch, hours):
    uuid = site.guest()
    real = time.time
    engine = site.engine(clock=time.monotonic)
    migration = engine.start(site.ledger.instance("db1"), "beta")
    monkeypatch.setattr(time, "time", lambda: real() + hours * 3600)
    with pytest.raises(LeaseHeld):
        site.engine(clock=time.monotonic).recover(migration.id)
    assert engine.drive(migration.id).status is MigrationStatus.COMPLETED
    site.settled(uuid, moved=True)


def test_while_it_moves_the_guest_bears_migration_and_token_on_both_hosts(site):
    uuid = site.guest()
    number = begun(site, point="perform", action="client-dies", after_bytes=1)
    migration = site.ledger.migration(number)
    assert migration.token == 1
    claims = site.holders(uuid)
    for host in ("alpha", "beta"):
        mark = Ownership(site.ledger.ledger_id, claims[host], migration.uuid, 1)
        assert site.hypervisor(host).domain(uuid).ownership == mark
    site.recover(number)
    assert site.ledger.migration(number).token == 2
    site.settled(uuid, moved=True)


@pytest.mark.parametrize("token", [0, 9], ids=["another migration's", "a later controller's of this one"])
def test_a_job_that_is_not_ours_is_neither_watched_nor_aborted(site, token):
    """The abort was asked for; the job on the source bears another mark than the one that precedes our own job."""
    uuid = site.guest()
    site.fleet.dirty_mib_s[uuid] = 10_000
    number = begun(site, point="call.live_migration", action="client-dies")
    migration = site.ledger.migration(number)
    theirs = Ownership("another", "claim", migration.uuid if token else "another", token)
    site.hypervisor("alpha").set_ownership(uuid, theirs)
    xml = site.hypervisor("alpha").domain_xml(uuid, XmlKind.MIGRATABLE).replace("ens4f0", "eth9")
    call = MigrateCall(uuid, site.fleet.uri("gamma"), "", xml)
    MigrationJob.start(site.fleet, site.fleet.hosts["alpha"], call)
    site.fleet.advance(1)
    site.ledger.request_abort(number)
    assert site.recover(number).status is MigrationStatus.CANCELLED
    assert not site.fleet.jobs[uuid].abort_requested
    assert site.fleet.running_on(uuid) == ("alpha",)
    assert site.fleet.jobs[uuid].ended is False
    assert any("a running job that is not this migration's" in sentence for sentence in site.sentences())
    assert list(site.holders(uuid)) == ["alpha"]
