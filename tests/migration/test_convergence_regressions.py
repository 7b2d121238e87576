"""What went wrong in converging, each by the name of what was seen."""

import contextlib

import attrs
import pytest

from numaferry.errors import NeedsPerson, NumaferryError
from numaferry.migration.evidence import DestWord, dest_word
from numaferry.migration.move import Move
from numaferry.migration.prepare import make_call
from numaferry.migration.recovery import Action, decide
from numaferry.model import DomainSeen, DomainState, Migration, MigrationPolicy, MigrationStatus, Ownership
from numaferry.virt.simulated import ClientDied


def seen(state, reason, *, mark=None):
    return DomainSeen("u", "db1", DomainState(state), reason, persistent=True, xml="<domain/>", ownership=mark)


def moving():
    return Migration(1, "m-1", "u", "alpha", "beta", MigrationStatus.RUNNING, step="live_migration")


def left_running(site, **fault):
    """Drive a migration until its controller is killed; returns its id."""
    engine = site.engine()
    migration = engine.start(site.ledger.instance("db1"), "beta", MigrationPolicy(bandwidth_mib_s=64))
    site.fleet.inject(**fault)
    with contextlib.suppress(NumaferryError, ClientDied):
        engine.drive(migration.id)
    return migration.id


def test_a_qemu_that_is_only_starting_to_receive_is_not_a_guest_that_runs_there():
    """It reads "starting-up" from the process's start until it listens: minutes, where huge pages are cleared.

    A guest that shut down on the source meanwhile was taken for one that had arrived, and its claim was flipped.
    """
    starting = seen("paused", "starting-up")
    assert dest_word(starting) is DestWord.INCOMING
    assert decide(moving(), seen("shutoff", "shutdown"), None, starting).action is Action.WAIT


def test_a_domain_on_the_destination_with_another_ledger_s_mark_is_not_the_guest_that_was_moved():
    foreign = seen("running", "migrated", mark=Ownership("theirs", "claim"))
    ours = seen("running", "migrated", mark=Ownership("ours", "claim", "m-1"))
    assert decide(moving(), None, None, foreign, ledger_id="ours").action is Action.NEEDS_PERSON
    assert decide(moving(), None, None, ours, ledger_id="ours").action is Action.FINISH


def test_a_job_that_libvirt_does_not_abort_any_more_is_watched_on_instead_of_asked_for_in_a_tight_loop(site):
    uuid = site.guest()
    number = left_running(site, point="perform", action="client-dies", after_bytes=10 << 20)
    site.fleet.inject(point="call.abort_job", action="refuse", times=20)
    site.engine().abort(number)
    site.recover(number)
    assert not [sentence for sentence in site.sentences(number) if "lost sight" in sentence]
    site.settled(uuid)


def test_a_call_of_a_dead_controller_that_begins_during_the_roll_back_does_not_lose_its_claim(site):
    """It had waited in libvirt for the domain's lock; its guest arrived where nothing was claimed any more."""
    uuid = site.guest()
    number = left_running(site, point="call.live_migration", action="client-dies")
    begun = []

    def begins(migration, _job):
        if migration.step == "rollback_live_migration" and not begun:
            begun.append(migration)
            site.fleet.inject(point="perform", action="client-dies", after_bytes=10 << 20)
            with contextlib.suppress(ClientDied):
                site.hypervisor("alpha").live_migration(call)

    gone = site.ledger.migration(number)
    call = make_call(Move.load(site.engine(controller=gone.controller)._tools, number))
    assert site.recover(number, on_progress=begins).status is MigrationStatus.COMPLETED
    assert begun
    site.settled(uuid, moved=True)


def test_cpus_that_went_offline_after_the_switch_do_not_keep_the_migration_from_its_end(site):
    uuid = site.guest()
    full = site.fleet.hosts["beta"].topology

    def without(cell, cpus):
        return attrs.evolve(cell, cpus=cell.cpus - cpus, siblings=tuple(one - cpus for one in cell.siblings))

    def offline(migration, _job):
        if migration.step == "post_live_migration_at_destination":
            gone = migration.context.new_numa_topology.owned_cpus
            site.fleet.hosts["beta"].topology = attrs.evolve(
                full, cells=tuple(without(cell, gone) for cell in full.cells)
            )

    engine = site.engine(on_progress=offline)
    ended = engine.drive(engine.start(site.ledger.instance("db1"), "beta").id)
    assert ended.status is MigrationStatus.COMPLETED
    assert list(site.holders(uuid)) == ["beta"]
    assert any("setting the emulator's CPUs did not work" in sentence for sentence in site.sentences())


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), ValueError("I/O operation on closed file")])
def test_a_watcher_whose_terminal_has_gone_does_not_stop_the_move(site, error):
    """`numaferry migrate db1 2>&1 | head -1` left a claim behind."""
    uuid = site.guest()

    def breaks(_migration, _job):
        raise error

    engine = site.engine(on_progress=breaks)
    assert engine.drive(engine.start(site.ledger.instance("db1"), "beta").id).status is MigrationStatus.COMPLETED
    site.settled(uuid, moved=True)


def test_a_guest_that_another_migration_left_paused_is_not_resumed(site):
    """Its own job was never asked for: another client's, to a host that this migration does not know, paused it."""
    uuid = site.guest()
    number = left_running(site, point="call.set_ownership", action="client-dies")
    domain = site.fleet.hosts["alpha"].domains[uuid]
    domain.state, domain.reason = DomainState.PAUSED, "migration"
    with pytest.raises(NeedsPerson, match="does not bear this migration's mark"):
        site.recover(number)
    assert site.fleet.running_on(uuid) == ()
    assert set(site.holders(uuid)) == {"alpha", "beta"}


@pytest.mark.parametrize("audited", [False, True], ids=["", "an audit saw the other machine"])
def test_a_guest_is_not_resumed_because_another_machine_answers_for_the_destination(site, audited):
    """An audit in between stored the other machine's UUID, and it then passed for the one that was claimed."""
    uuid = site.guest()
    number = left_running(site, point="finish", action="client-dies-with-its-job")
    site.fleet.hosts["beta"].uuid = "00000000-0000-4000-8000-00000000beef"
    if audited:
        site.audit("beta")
    with pytest.raises(NeedsPerson, match="is not the machine that the guest was sent to"):
        site.recover(number)
    assert site.fleet.running_on(uuid) == ()
