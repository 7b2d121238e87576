"""The move claim: chosen and claimed in one transaction, both hosts charged, flipped or released once."""

from __future__ import annotations

import attrs
import pytest

from numaferry.errors import CheckFailed, Conflict, InvalidInput, NoFit, NotConfirmed, NotFound, Overcommitted
from numaferry.ledger.resource_tracker import ResourceTracker
from numaferry.ledger.usage import Use, host_usage
from numaferry.model import CpuSet, MigrationPolicy, MigrationStatus, Placement, Vif, VifKind, mutated_migration_context

COMPLETED, FAILED, CANCELLED = MigrationStatus.COMPLETED, MigrationStatus.FAILED, MigrationStatus.CANCELLED


@pytest.fixture
def guest(fleet, make):
    """A guest on A with CPUs 4-5 and 32 pages of 2 MiB on cell 1."""
    return fleet.claim_instance(make.guest("db1", "A", "4-5")).instance


def test_the_claim_is_the_exact_placement(fleet, guest):
    claim = fleet.live_migration_claim(
        guest.uuid, ["B"], policy=MigrationPolicy(bandwidth_mib_s=7), controller="me:1:2"
    )
    move = claim.migration
    assert (move.source, move.dest, move.status) == ("A", "B", MigrationStatus.ACCEPTED)
    assert (move.policy.bandwidth_mib_s, move.controller, move.abort_requested) == (7, "me:1:2", False)
    (holding,) = fleet.view("B").holdings
    assert holding.claim_id == claim.id
    assert holding.cpu_set == claim.placement.numa_topology.owned_cpus
    assert not holding.current
    assert fleet.migration(move.id) == move == fleet.migration(move.uuid) == fleet.migration(move.uuid[:8])


def test_the_context_has_both_sides(fleet, guest):
    claim = fleet.live_migration_claim(guest.uuid, ["B"])
    context = claim.instance.migration_context
    assert claim.instance.host == "A"
    assert context.old_numa_topology == guest.numa_topology
    assert context.new_numa_topology == claim.placement.numa_topology
    assert context.new_cpu_shared_set == "0-1"
    assert fleet.instance("db1") == claim.instance
    assert mutated_migration_context(claim.instance).numa_topology == claim.placement.numa_topology


def test_the_links_are_those_of_the_destination(fleet, make):
    here = Vif("52:54:00:00:00:01", VifKind.DIRECT, "eth0", "data")
    there = attrs.evolve(here, source_dev="ens3")
    guest = fleet.claim_instance(attrs.evolve(make.guest("db1", "A", "4-5"), vifs=(here,))).instance
    claim = fleet.live_migration_claim(guest.uuid, ["B"], vifs=lambda record: (there,) if record.name == "B" else ())
    assert claim.instance.vifs == (here,)
    assert (claim.instance.migration_context.old_vifs, claim.instance.migration_context.new_vifs) == ((here,), (there,))
    fleet.confirm_migration(claim.migration.id)
    assert fleet.instance("db1").vifs == (there,)


def test_the_first_candidate_that_fits_is_taken(fleet, guest, make):
    make.host(fleet, "C")
    fleet.set_observed("B", (make.seen("stray", "2-7"),))
    assert fleet.live_migration_claim(guest.uuid, ["B", "C"]).migration.dest == "C"


def test_no_fit_says_so_for_every_candidate(fleet, guest, make):
    make.host(fleet, "C", confirmed=False)
    fleet.set_observed("B", (make.seen("stray", "2-7"),))
    with pytest.raises(NoFit) as caught:
        fleet.live_migration_claim(guest.uuid, ["A", "B", "C"])
    assert [misfit.host for misfit in caught.value.misfits] == ["A", "B", "C"]
    assert "runs on A already" in caught.value.misfits[0].reason
    assert "not confirmed" in caught.value.misfits[2].reason
    assert fleet.migrations() == ()
    with pytest.raises(NoFit):
        fleet.live_migration_claim(guest.uuid, [])


def test_a_host_whose_links_are_missing_is_a_misfit(fleet, guest):
    def links(record):
        raise CheckFailed(f"{record.name} has no link to net1", hint="connect it")

    with pytest.raises(NoFit, match="B has no link to net1") as caught:
        fleet.live_migration_claim(guest.uuid, ["B"], vifs=links)
    assert caught.value.hint == "connect it"


def test_a_destination_that_was_never_confirmed_is_refused(fleet, guest, make):
    make.host(fleet, "C", confirmed=False)
    with pytest.raises(NotConfirmed):
        fleet.live_migration_claim(guest.uuid, ["C"])


def test_unknown_things_are_not_found(fleet, guest):
    with pytest.raises(NotFound):
        fleet.live_migration_claim(guest.uuid, ["Z"])
    with pytest.raises(NotFound):
        fleet.live_migration_claim("nobody", ["B"])
    with pytest.raises(NotFound):
        fleet.confirm_migration(99)


def test_an_instance_moves_once_at_a_time(fleet, guest, make):
    make.host(fleet, "C")
    fleet.live_migration_claim(guest.uuid, ["B"])
    with pytest.raises(Conflict, match="being moved to B by migration 1"):
        fleet.live_migration_claim(guest.uuid, ["C"])


def test_a_solver_that_lies_promises_nothing(fleet, guest, make):
    taken = fleet.claim_instance(make.guest("db2", "B", "4-5")).instance
    with pytest.raises(Overcommitted):
        fleet.live_migration_claim(
            guest.uuid, ["B"], fit=lambda host, _request: Placement(host.name, host.generation, taken.numa_topology)
        )
    assert fleet.migrations() == ()
    assert [holding.instance_name for holding in fleet.view("B").holdings] == ["db2"]


def test_the_source_page_size_is_a_constraint(fleet, make):
    """`large` means 2 MiB for a live guest that was started with 2 MiB, whatever else the destination has."""
    make.host(fleet, "G", notation="2 cells x 2 cores x 2 threads, 8G, 2M:128, 1G:4")
    guest = make.guest("db1", "A", "4-5")
    cells = tuple(attrs.evolve(cell, page_size="large") for cell in guest.request.cells)
    wishing = attrs.evolve(guest, request=attrs.evolve(guest.request, cells=cells))
    fleet.claim_instance(wishing)
    placed = fleet.live_migration_claim(guest.uuid, ["G"]).placement.numa_topology
    assert [cell.page_size_kib for cell in placed.cells] == [2048]


# -- both hosts are charged ------------------------------------------------------------------------------------------


def test_both_hosts_are_charged_while_the_move_runs(fleet, guest):
    alone = host_usage(fleet, "A")
    assert alone.cell(1).own == Use(CpuSet.parse("4-5"), pages=((2048, 32),))
    claim = fleet.live_migration_claim(guest.uuid, ["B"])
    leaving, coming = host_usage(fleet, "A"), ResourceTracker(fleet).usage("B")
    assert leaving.cell(1).outgoing == alone.cell(1).own
    assert leaving.cell(1).own == Use()
    placed = claim.placement.numa_topology.cells[0].host_cell
    assert coming.cell(placed).incoming.pages == ((2048, 32),)
    assert coming.cell(placed).total.cpus == claim.placement.numa_topology.owned_cpus
    assert fleet.host_state("A").cells[1].pinned == CpuSet.parse("4-5")
    fleet.confirm_migration(claim.migration.id)
    assert host_usage(fleet, "A").cell(1).total == Use()
    assert host_usage(fleet, "B").cell(placed).own.pages == ((2048, 32),)


# -- the flip --------------------------------------------------------------------------------------------------------


def test_the_flip_moves_the_instance_and_frees_the_source(fleet, guest):
    claim = fleet.live_migration_claim(guest.uuid, ["B"])
    before = fleet.host("A").generation
    fleet.confirm_migration(claim.migration.id)
    moved = fleet.instance("db1")
    assert (moved.host, moved.numa_topology) == ("B", claim.placement.numa_topology)
    assert moved.migration_context is None
    assert fleet.view("A").holdings == ()
    assert fleet.host("A").generation > before
    assert fleet.migration(claim.migration.id).context == claim.migration.context


def test_the_flip_may_run_twice(fleet, guest):
    claim = fleet.live_migration_claim(guest.uuid, ["B"])
    once = fleet.confirm_migration(claim.migration.id, status=COMPLETED)
    told = fleet.events(instance=guest.uuid)
    assert fleet.confirm_migration(claim.migration.id, status=COMPLETED) == once
    assert fleet.confirm_migration(claim.migration.id) == once
    assert fleet.events(instance=guest.uuid) == told


def test_a_guest_goes_there_and_back_and_there(fleet, guest):
    for dest in ("B", "A", "B"):
        claim = fleet.live_migration_claim(guest.uuid, [dest])
        fleet.confirm_migration(claim.migration.id, status=COMPLETED)
        assert fleet.instance("db1").host == dest
    assert [move.status for move in fleet.migrations(instance=guest.uuid)] == [COMPLETED] * 3


def test_a_confirmed_move_may_be_confirmed_after_the_guest_went_on(fleet, guest):
    first = fleet.live_migration_claim(guest.uuid, ["B"]).migration
    fleet.confirm_migration(first.id, status=COMPLETED)
    second = fleet.live_migration_claim(guest.uuid, ["A"]).migration
    fleet.confirm_migration(second.id, status=COMPLETED)
    fleet.confirm_migration(first.id)
    assert fleet.instance("db1").host == "A"


# -- giving up -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [FAILED, CANCELLED])
def test_a_dropped_claim_leaves_everything_as_it_was(fleet, guest, status):
    before = fleet.host_state("B").cells
    claim = fleet.live_migration_claim(guest.uuid, ["B"])
    dropped = fleet.drop_move_claim(claim.migration.id, status, "the link went down")
    assert (dropped.status, dropped.reason) == (status, "the link went down")
    assert fleet.host_state("B").cells == before
    assert fleet.instance("db1") == guest
    assert fleet.drop_move_claim(claim.migration.id, status, "again") == dropped


def test_dropping_a_claim_that_never_happened_is_safe(fleet, guest):
    assert fleet.drop_move_claim(99, FAILED, "nothing came of it") is None
    assert fleet.drop_move_claim("no-such-uuid", FAILED, "nothing came of it") is None


def test_what_was_confirmed_is_not_dropped_and_the_other_way_round(fleet, guest):
    first = fleet.live_migration_claim(guest.uuid, ["B"]).migration
    fleet.drop_move_claim(first.id, FAILED, "x")
    with pytest.raises(Conflict, match="is failed and holds no claim on B"):
        fleet.confirm_migration(first.id)
    second = fleet.live_migration_claim(guest.uuid, ["B"]).migration
    fleet.confirm_migration(second.id)
    with pytest.raises(Conflict, match="was confirmed"):
        fleet.drop_move_claim(second.id, FAILED, "x")
    fleet.set_migration(second.id, status=COMPLETED, sentence="done")
    with pytest.raises(Conflict, match="was confirmed"):
        fleet.drop_move_claim(second.id, FAILED, "x")


@pytest.mark.parametrize("status", [COMPLETED, MigrationStatus.ERROR, MigrationStatus.RUNNING])
def test_a_drop_ends_a_move_as_failed_or_cancelled(fleet, guest, status):
    move = fleet.live_migration_claim(guest.uuid, ["B"]).migration
    with pytest.raises(Conflict, match="failed or cancelled"):
        fleet.drop_move_claim(move.id, status, "x")


# -- the migration's row ---------------------------------------------------------------------------------------------


def test_a_transition_is_written_with_its_sentence(fleet, guest):
    move = fleet.live_migration_claim(guest.uuid, ["B"]).migration
    memo = (("emulatorpin", "1"),)
    now = fleet.set_migration(
        move.id,
        status=MigrationStatus.PREPARING,
        step="pre_live_migration",
        reason="why not",
        source_memo=memo,
        expected_status=MigrationStatus.ACCEPTED,
        sentence="plugging links on B",
    )
    assert (now.status, now.step, now.reason) == (MigrationStatus.PREPARING, "pre_live_migration", "why not")
    assert now.source_memo == memo
    assert now.updated_at >= move.created_at
    assert fleet.events(migration=move.id)[-1].sentence == "plugging links on B"
    assert fleet.migrations(status=MigrationStatus.PREPARING) == (now,)
    assert fleet.migrations(status=[COMPLETED, FAILED]) == ()


def test_a_transition_from_another_status_is_refused(fleet, guest):
    move = fleet.live_migration_claim(guest.uuid, ["B"]).migration
    with pytest.raises(Conflict, match="is accepted, not running"):
        fleet.set_migration(
            move.id, status=FAILED, expected_status=MigrationStatus.RUNNING, sentence="somebody else did it"
        )
    assert fleet.migration(move.id) == move


def test_a_migration_does_not_end_with_its_claim_held(fleet, guest):
    move = fleet.live_migration_claim(guest.uuid, ["B"]).migration
    for status in (COMPLETED, FAILED, CANCELLED):
        with pytest.raises(Conflict, match="while it holds its claim on B"):
            fleet.set_migration(move.id, status=status, sentence="ended")
    fleet.set_migration(move.id, status=MigrationStatus.ERROR, sentence="a person must look")


def test_a_transition_without_a_sentence_is_refused(fleet, guest):
    move = fleet.live_migration_claim(guest.uuid, ["B"]).migration
    with pytest.raises(InvalidInput):
        fleet.set_migration(move.id, step="x", sentence="")


def test_an_abort_is_noted_once_and_only_while_there_is_something_to_abort(fleet, guest):
    move = fleet.live_migration_claim(guest.uuid, ["B"]).migration
    assert fleet.request_abort(move.id).abort_requested
    told = fleet.events(migration=move.id)
    assert fleet.request_abort(move.id).abort_requested
    assert fleet.events(migration=move.id) == told
    fleet.drop_move_claim(move.id, CANCELLED, "aborted")
    with pytest.raises(Conflict, match="nothing to abort"):
        fleet.request_abort(move.id)


def test_a_whole_move_reads_as_a_story(fleet, guest):
    move = fleet.live_migration_claim(guest.uuid, ["B"]).migration
    fleet.confirm_migration(move.id, status=COMPLETED)
    assert [event.sentence for event in fleet.events(migration=move.id)] == [
        "migration 1 of db1 accepted: A to B, CPUs 2-3 claimed there",
        "db1 runs on B: its claim on A is released",
        "migration 1 is completed",
    ]
    first, *rest = fleet.events(migration=move.id)
    assert list(fleet.events(migration=move.id, after=first.id)) == rest
