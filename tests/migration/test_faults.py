"""Faults, written once over the table of steps, the ledger's commits and the port's calls.

After each the same is asserted (`Site.settled`): the migration has ended, the guest runs on exactly one host and went
on without a restart, it holds one claim, on the host that runs it, and the kernel's masks are those of the claim.
"""

import contextlib

import pytest

from numaferry.audit import update_available_resource
from numaferry.errors import HypervisorError, NumaferryError
from numaferry.migration.steps import STEPS, first_after
from numaferry.model import MigrationStatus
from numaferry.virt.simulated import SCENARIOS, ClientDied

NAMES = [step.name for step in STEPS]
SETTLED_BEFORE_SWITCH = NAMES[: first_after(STEPS)]


class Crash(BaseException):
    """The controller is gone, as by kill -9: no handler of ours may run on."""


def strike(error, times=1):
    """A function that raises `error` the first `times` times and counts how often it was called."""

    def struck():
        struck.hits += 1
        if struck.hits <= times:
            raise error

    struck.hits = 0
    return struck


def run(site, engine):
    """Start and drive; returns what was raised, or None."""
    try:
        engine.drive(engine.start(site.ledger.instance("db1"), "beta").id)
    except (NumaferryError, RuntimeError, Crash) as error:
        return error
    return None


def recovered(site):
    """What a new controller does once the world is whole again: recover whatever is in progress."""
    site.fleet.heal()
    site.fleet.advance(5)
    for migration in site.ledger.migrations():
        if migration.in_progress:
            site.recover(migration.id)


ERRORS = [HypervisorError("libvirt says no"), RuntimeError("a bug of ours")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("name", NAMES)
def test_a_step_that_fails_once(site, name, where, error):
    uuid = site.guest()
    fault = strike(error)
    raised = run(site, site.engine(steps=site.altered(name, **{where: fault})))
    assert fault.hits >= 1
    switched = name not in SETTLED_BEFORE_SWITCH or (name, where) == ("live_migration", "after")
    assert (raised is None) == switched, site.story()
    site.settled(uuid, moved=switched)
    [migration] = site.ledger.migrations()
    assert migration.status is (MigrationStatus.COMPLETED if switched else MigrationStatus.FAILED)


@pytest.mark.parametrize("name", NAMES[first_after(STEPS) :])
def test_a_step_after_the_switch_that_fails_again_and_again_is_left_to_recover_with_all_claims_held(site, name):
    uuid = site.guest()
    assert run(site, site.engine(steps=site.altered(name, before=strike(HypervisorError("no"), times=99)))) is not None
    [migration] = site.ledger.migrations()
    assert (migration.status, migration.step) == (MigrationStatus.POST_MIGRATING, name)
    assert "beta" in site.holders(uuid)
    recovered(site)
    site.settled(uuid, moved=True)


@pytest.mark.parametrize("name", NAMES)
def test_each_step_runs_twice_as_it_runs_once(site, name):
    uuid = site.guest()
    assert run(site, site.engine(steps=site.altered(name, twice=True))) is None
    site.settled(uuid, moved=True)


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("name", NAMES)
def test_a_controller_that_dies_in_a_step_is_followed_by_another(site, name, where):
    uuid = site.guest()
    fault = strike(Crash())
    assert isinstance(run(site, site.engine(steps=site.altered(name, **{where: fault}))), Crash)
    [migration] = site.ledger.migrations()
    assert (migration.in_progress, migration.step, fault.hits) == (True, name, 1)
    recovered(site)
    site.settled(uuid, moved=name not in SETTLED_BEFORE_SWITCH or (name, where) == ("live_migration", "after"))


WRITES = {
    "live_migration_claim",
    "set_migration",
    "confirm_migration",
    "drop_move_claim",
    "update_host",
    "set_observed",
    "record_findings",
}


class DyingLedger:
    """The ledger of a controller that dies right after its n-th commit."""

    def __init__(self, ledger, dies_after):
        self._ledger, self.left = ledger, dies_after

    def __getattr__(self, name):
        value = getattr(self._ledger, name)
        if name not in WRITES:
            return value

        def committed(*args, **kwargs):
            result = value(*args, **kwargs)
            self.left -= 1
            if self.left == 0:
                raise Crash
            return result

        return committed


#: A migration that succeeds makes this many commits, one that is rolled back by a failing call this many.
COMMITS_OF_A_SUCCESS = 23
COMMITS_OF_A_ROLL_BACK = 20


def dying(site, dies_after):
    """An engine whose ledger and audit die after the n-th commit, and that ledger."""
    ledger = DyingLedger(site.ledger, dies_after)

    def audit(host):
        return update_available_resource(ledger, host, site.hypervisor(host))

    return site.engine(ledger, audit=audit), ledger


@pytest.mark.parametrize("commit", range(1, COMMITS_OF_A_SUCCESS + 1))
def test_a_controller_that_dies_after_a_commit_of_a_move_that_would_succeed(site, commit):
    uuid = site.guest()
    engine, ledger = dying(site, commit)
    assert isinstance(run(site, engine), Crash)
    assert ledger.left == 0
    recovered(site)
    site.settled(uuid)


@pytest.mark.parametrize("commit", range(1, COMMITS_OF_A_ROLL_BACK + 1))
def test_a_controller_that_dies_after_a_commit_of_a_roll_back(site, commit):
    uuid = site.guest()
    site.fleet.inject("prepare", "dest-start-fails")
    engine, ledger = dying(site, commit)
    assert isinstance(run(site, engine), Crash)
    assert ledger.left == 0
    recovered(site)
    site.settled(uuid, moved=False)


def test_the_number_of_commits_is_as_the_two_tests_above_take_it(site):
    site.guest()
    engine, ledger = dying(site, 0)
    assert run(site, engine) is None
    assert -ledger.left == COMMITS_OF_A_SUCCESS
    site.fleet.inject("prepare", "dest-start-fails")
    engine, ledger = dying(site, 0)
    with pytest.raises(NumaferryError):
        engine.drive(engine.start(site.ledger.instance("db1"), "alpha").id)
    assert -ledger.left == COMMITS_OF_A_ROLL_BACK


#: Calls that a migration without trouble makes, to which host.
SOURCE_CALLS = (
    *("facts", "free_pages", "domains", "domain", "domain_xml", "set_ownership", "guest_support"),
    *("live_migration", "job", "unplug_vifs", "set_pins"),
)
DEST_CALLS = (
    *("facts", "free_pages", "domains", "domain", "set_ownership", "thread_masks"),
    *("check_vifs", "guest_support", "plug_vifs", "completed_job", "set_pins"),
)
MADE = [*(("alpha", method) for method in SOURCE_CALLS), *(("beta", method) for method in DEST_CALLS)]


@pytest.mark.parametrize("action", ["refuse", "client-dies", "cut-controller-host"])
@pytest.mark.parametrize("edge", ["call", "return"])
@pytest.mark.parametrize(("host", "method"), MADE)
def test_every_call_to_either_host_may_fail_or_be_the_last(site, host, method, edge, action):
    uuid = site.guest()
    engine = site.engine()
    migration = engine.start(site.ledger.instance("db1"), "beta")
    site.fleet.inject(f"{edge}.{method}", action, host=host)
    with contextlib.suppress(NumaferryError, ClientDied):
        engine.drive(migration.id)
    assert any(line.endswith(f"fault: {action} at {edge}.{method}") for line in site.fleet.story), "it did not strike"
    recovered(site)
    site.settled(uuid)


ENDS_ELSEWHERE = {"source-dies", "guest-shuts-down", "guest-crashes", "split-brain"}
NEEDS_A_PERSON = {"source-libvirtd-restarts-in-confirm"}


@pytest.mark.parametrize("scenario", sorted(set(SCENARIOS) - ENDS_ELSEWHERE - NEEDS_A_PERSON - {"pins-ignored"}))
def test_the_fleet_s_named_faults(site, scenario):
    uuid = site.guest()
    site.fleet.inject_named(scenario)
    engine = site.engine()
    migration = engine.start(site.ledger.instance("db1"), "beta")
    with contextlib.suppress(NumaferryError, ClientDied):
        engine.drive(migration.id)
    assert any("fault: " in line for line in site.fleet.story)
    if not site.fleet.hosts["beta"].alive:
        site.fleet.boot_host("beta")
    recovered(site)
    site.settled(uuid)


def test_an_audit_of_every_host_after_every_commit_brings_nothing_back_and_drops_nothing(site):
    """LP 1894095, 1845146, 1953359 of nova: audits between failure and drop of the claim, and from `accepted` on."""
    uuid = site.guest()
    claims = []

    def audited(migration, job):
        if job is None:
            for host in ("alpha", "beta", "gamma"):
                site.audit(host)
            claims.append((migration.status, sorted(site.holders(uuid))))

    engine = site.engine(on_progress=audited)
    both, source, dest = ["alpha", "beta"], ["alpha"], ["beta"]
    site.fleet.inject("prepare", "dest-start-fails")
    with pytest.raises(NumaferryError):
        engine.drive(engine.start(site.ledger.instance("db1"), "beta").id)
    site.settled(uuid, moved=False)
    assert claims[0] == (MigrationStatus.PREPARING, both)
    assert claims[-1] == (MigrationStatus.FAILED, source)
    assert {held for _, held in ((status, tuple(held)) for status, held in claims)} == {tuple(both), tuple(source)}
    claims.clear()
    engine.drive(engine.start(site.ledger.instance("db1"), "beta").id)
    site.settled(uuid, moved=True)
    assert claims[-1] == (MigrationStatus.COMPLETED, dest)
    for host in ("alpha", "beta", "gamma"):
        assert site.audit(host).findings == ()
        assert len(site.ledger.host_state(host).cells[0].pinned) == (2 if host == "beta" else 0)
