"""Hosts: what may be promised of them, and what changes when reality or an operator changes."""

from __future__ import annotations

import json

import attrs
import pytest

from numaferry.errors import Conflict, InvalidInput, NoFit, NotConfirmed, NotFound
from numaferry.ledger import Overfull
from numaferry.model import CpuSet, HostConfig, MigrationStatus, ReservedPages
from numaferry.model.codec import dumps, loads
from numaferry.model.notation import parse_topology


def test_a_host_is_found_again(fleet, make):
    record = fleet.host("A")
    assert (record.name, record.uri, record.confirmed, record.state) == ("A", "test:///A", True, "reachable")
    assert record.facts == make.facts("A")
    assert record.config == make.config()
    assert [one.name for one in fleet.hosts()] == ["A", "B"]


def test_an_unknown_host_is_named_with_the_known_ones(fleet):
    with pytest.raises(NotFound, match="'C'") as caught:
        fleet.host("C")
    assert "A, B" in caught.value.hint


def test_a_host_is_added_once(fleet, make):
    with pytest.raises(Conflict, match="in the ledger already"):
        make.host(fleet, "A")


def test_one_machine_is_not_added_under_two_names(fleet, make):
    with pytest.raises(Conflict, match="known as A"):
        fleet.add_host("A2", make.facts("A2", uuid="uuid-of-A"), make.config(), confirmed=True)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"dedicated": "2-8"}, "CPU 8 does not exist"),
        ({"shared": "0-1,64"}, "CPU 64 does not exist"),
        ({"dedicated": "1-7"}, "CPU 1 of A is in cpu_dedicated_set and in cpu_shared_set"),
        ({"migration_cpu_set": CpuSet.parse("0,8")}, "migration_cpu_set 0,8: CPU 8 does not exist"),
        ({"migration_cpu_set": CpuSet.parse("0-2")}, "CPU 2 of A is in cpu_dedicated_set and in migration_cpu_set"),
        ({"reserved_huge_pages": (ReservedPages(2, 2048, 1),)}, "no 2048 KiB pages on cell 2"),
        ({"physical_network_cells": (("physnet0", (0, 2)),)}, "no cell 2 for physnet0"),
        ({"reserved_huge_pages": (ReservedPages(0, 1048576, 1),)}, "no 1048576 KiB pages on cell 0"),
    ],
)
def test_sets_that_no_host_could_keep_are_refused(ledger, make, config, said):
    with pytest.raises(InvalidInput, match=said):
        make.host(ledger, "A", **config)
    assert ledger.hosts() == ()


def test_a_config_that_was_stored_before_there_were_cpus_for_migrations_is_read(make):
    stored = json.loads(dumps(make.config()))
    del stored["migration_cpu_set"]
    assert loads(json.dumps(stored), HostConfig) == make.config()


def test_nothing_is_claimable_before_an_operator_confirmed(fleet, make):
    make.host(fleet, "C", confirmed=False)
    with pytest.raises(NotConfirmed) as caught:
        fleet.claim_instance(make.guest("db1", "C", "4-5"))
    assert "host confirm C" in caught.value.hint
    state = fleet.host_state("C")
    assert not any(cell.free_dedicated or cell.shared or cell.memory_kib or cell.pages for cell in state.cells)
    fleet.confirm_host("C", make.config())
    fleet.claim_instance(make.guest("db1", "C", "4-5"))


def test_every_change_of_the_sets_raises_the_generation(fleet, make):
    before = fleet.host("A").generation
    assert fleet.confirm_host("A", make.config(dedicated="4-7")).generation == before + 1
    assert fleet.confirm_host("A", make.config(dedicated="4-7")).generation == before + 1


def test_free_page_counts_do_not_raise_the_generation(fleet, make):
    facts = make.facts("A")
    cell = facts.topology.cells[0]
    pages = tuple(attrs.evolve(pool, free=pool.free // 2) for pool in cell.pages)
    topology = attrs.evolve(facts.topology, cells=(attrs.evolve(cell, pages=pages), facts.topology.cells[1]))
    before = fleet.host("A").generation
    after = fleet.update_host("A", attrs.evolve(facts, topology=topology))
    assert after.generation == before
    assert after.facts.topology.cells[0].pages == pages


def test_a_limit_lowered_by_reality_is_stored_over_full_and_closed(fleet, make):
    fleet.claim_instance(make.guest("db1", "A", "4-5", memory_mib=256))
    fleet.update_host("A", make.facts("A", "2 cells x 2 cores x 2 threads, 1536M, 2M:100"))
    assert fleet.view("A").overfull == (Overfull(1, "page:2048", 128, 100),)
    assert fleet.host_state("A").cells[1].pool(2048).free == 0
    assert fleet.host("A").state == "reachable"


def test_a_pool_that_is_gone_stays_as_a_row_until_it_is_released(fleet, make):
    guest = fleet.claim_instance(make.guest("db1", "A", "4-5", memory_mib=256)).instance
    fleet.update_host("A", make.facts("A", "2 cells x 2 cores x 2 threads, 1536M"))
    assert fleet.view("A").overfull == (Overfull(1, "page:2048", 128, 0),)
    fleet.forget_instance(guest.uuid)
    fleet.update_host("A", make.facts("A"))
    assert fleet.view("A").overfull == ()
    assert fleet.host_state("A").cells[1].pool(2048).free == 128


def test_a_smaller_dedicated_set_keeps_what_is_promised_and_gives_nothing_new(fleet, make):
    fleet.claim_instance(make.guest("db1", "A", "4-5"))
    fleet.confirm_host("A", make.config(dedicated="2-4"))
    assert [holding.cpu_set for holding in fleet.view("A").holdings] == [CpuSet.parse("4-5")]
    assert fleet.host_state("A").cells[1].free_dedicated == CpuSet()


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"uuid": "another"}, "host UUID was uuid-of-A and is another"),
        ({"topology": parse_topology("3 cells x 2 cores x 2 threads, 1536M, 2M:128")}, "cell 2 is new"),
        ({"topology": parse_topology("1 cell x 2 cores x 2 threads, 1536M, 2M:128")}, "cell 1 is gone"),
        ({"topology": parse_topology("2 cells x 1 core x 2 threads, 1536M, 2M:128")}, "CPUs of cell 0 were 0-3"),
        ({"topology": parse_topology("2 cells x 4 cores x 1 thread, 1536M, 2M:128")}, "numbered in another way"),
    ],
)
def test_another_machine_is_quarantined_until_it_is_accepted(fleet, make, facts, said):
    record = fleet.update_host("A", attrs.evolve(make.facts("A"), **facts))
    assert record.state == "quarantined"
    assert said in record.state_reason
    with pytest.raises(NotConfirmed, match="quarantined"):
        fleet.claim_instance(make.guest("db1", "A", "4-5"))
    fleet.set_host_state("A", "reachable")
    assert fleet.host("A").state == "quarantined"
    accepted = fleet.confirm_host("A", make.config(dedicated="2-3"))
    assert not accepted.claimable, "what runs there now is not known yet"
    assert fleet.set_observed("A", []).claimable


def test_the_accepted_uuid_of_a_swapped_machine_was_overwritten_by_the_look_that_quarantined_it(fleet, make):
    swapped = attrs.evolve(make.facts("A"), uuid="another")
    for _ in range(2):
        record = fleet.update_host("A", swapped)
        assert (record.uuid, record.facts.uuid) == ("uuid-of-A", "another")
    assert len([one for one in fleet.events(host="A") if one.kind == "host-quarantined"]) == 1, "told once"
    assert fleet.confirm_host("A", make.config()).uuid == "another"
    assert fleet.update_host("A", swapped).state == "unreachable"
    assert fleet.set_observed("A", []).state == "reachable"


def test_a_host_that_was_silent_is_not_opened_by_confirming_it(fleet, make):
    """What had been started there meanwhile was not known, and its CPUs were promised."""
    fleet.set_host_state("A", "unreachable", "no route")
    assert not fleet.confirm_host("A", make.config()).claimable
    assert fleet.set_observed("A", []).claimable


def test_a_look_that_another_has_overtaken_says_nothing(fleet, make):
    """A look from before a boot opened the host again, with the guests that had run there before."""
    before = fleet.now()
    old = attrs.evolve(make.facts("A"), uptime_s=90_000)
    fleet.update_host("A", old)
    fleet.set_observed("A", [], fleet.now())
    fleet.update_host("A", attrs.evolve(old, uptime_s=10), fleet.now())
    assert not fleet.host("A").claimable
    fleet.update_host("A", old, before)
    fleet.set_observed("A", [make.seen("stray", "4")], before)
    assert not fleet.host("A").claimable
    assert fleet.observed("A") == ()


def test_another_machine_in_its_place_says_nothing_of_what_runs_there(fleet, make):
    """A URI that led to another machine freed what transient guests of the real one held."""
    guest = attrs.evolve(make.guest("db1", "A", "4-5"), persistent=False)
    fleet.claim_instance(guest)
    fleet.update_host("A", attrs.evolve(make.facts("A"), uuid="another"))
    fleet.set_observed("A", [make.seen("stray", "6")])
    for _ in range(3):
        assert fleet.note_present("A", set(), 0.0) == ()
    assert fleet.observed("A") == ()
    assert fleet.instance("db1").host == "A"


def test_a_machine_that_answers_under_two_names_is_quarantined_also_where_nobody_confirmed_it(fleet, make):
    """The schema refused it as "the ledger refused what the solver allowed", at every look."""
    make.host(fleet, "new", confirmed=False)
    record = fleet.update_host("new", attrs.evolve(make.facts("new"), uuid="uuid-of-B"))
    assert (record.state, record.uuid) == ("quarantined", "uuid-of-new")
    assert "the machine known as B" in record.state_reason


def test_a_first_confirmation_does_not_accept_another_ledger_that_nobody_was_told_of(fleet, make):
    make.host(fleet, "new", confirmed=False)
    fleet.note_ledgers("new", {"theirs"})
    with pytest.raises(Conflict, match="guests of another ledger, theirs, run on host new"):
        fleet.confirm_host("new", make.config())
    fleet.note_ledgers("A", {"theirs"})
    assert fleet.host("A").state == "quarantined"
    fleet.confirm_host("A", make.config())
    assert "guests of ledger theirs are accepted there" in fleet.events(host="A")[-1].sentence


def test_a_machine_that_has_a_name_already_is_not_accepted_under_another(fleet, make):
    fleet.update_host("A", attrs.evolve(make.facts("A"), uuid="uuid-of-B"))
    with pytest.raises(Conflict, match="what answers as host A is the machine known as B"):
        fleet.confirm_host("A", make.config())
    assert fleet.host("A").state == "quarantined"


def test_an_unreachable_host_takes_nobody_and_comes_back(fleet, make):
    guest = fleet.claim_instance(make.guest("db1", "A", "4-5")).instance
    fleet.set_host_state("B", "unreachable", "no route")
    assert not fleet.host("B").claimable
    fleet.update_host("B", make.facts("B"))
    assert not fleet.host("B").claimable, "what runs there now is not known yet"
    fleet.set_observed("B", [])
    assert fleet.live_migration_claim(guest.uuid, ["B"]).migration.dest == "B"


def test_a_host_that_was_booted_is_closed_until_it_is_known_what_runs_there(fleet, make):
    """Its uptime is lower than at the last look: what was seen to run there before is no longer true."""
    guest = fleet.claim_instance(make.guest("db1", "A", "4-5")).instance
    there = fleet.claim_instance(make.guest("db2", "B", "4-5")).instance
    fleet.update_host("B", attrs.evolve(make.facts("B"), uptime_s=10_000))
    assert fleet.host("B").state == "reachable"
    booted = fleet.update_host("B", attrs.evolve(make.facts("B"), uptime_s=42))
    assert (booted.state, booted.state_reason) == ("unreachable", "booted 42 s ago, and not looked at since")
    assert not booted.claimable
    with pytest.raises(NoFit, match="B is unreachable: booted 42 s ago"):
        fleet.live_migration_claim(guest.uuid, ["B"])
    fleet.update_host("B", attrs.evolve(make.facts("B"), uptime_s=60))
    assert fleet.host("B").state == "unreachable"
    assert fleet.instance("db2") == there, "promises outlive a boot"
    fleet.set_observed("B", [])
    assert fleet.host("B").claimable
    assert fleet.live_migration_claim(guest.uuid, ["B"]).migration.dest == "B"
    told = [event.sentence for event in fleet.events(host="B") if event.kind in {"host-booted", "host-state"}]
    assert told == [
        "host B was booted 42 s ago: it is discovered again before any claim",
        "host B is reachable: looked at again",
    ]


@pytest.mark.parametrize(("before", "now"), [(0, 42), (10_000, 0), (10_000, 9_996), (10_000, 10_030)])
def test_a_host_that_is_not_known_to_have_been_booted_stays_open(fleet, make, before, now):
    """The counters may step back a little by themselves, and not every libvirt has them."""
    for uptime_s in (before, now):
        record = fleet.update_host("B", attrs.evolve(make.facts("B"), uptime_s=uptime_s))
    assert record.state == "reachable"
    assert not [event for event in fleet.events(host="B") if event.kind == "host-booted"]


def test_a_boot_does_not_end_a_quarantine(fleet, make):
    fleet.update_host("B", attrs.evolve(make.facts("B"), uuid="another", uptime_s=10_000))
    assert fleet.update_host("B", attrs.evolve(make.facts("B"), uuid="another", uptime_s=42)).state == "quarantined"
    fleet.set_observed("B", [])
    assert fleet.host("B").state == "quarantined"


def test_a_host_is_removed_only_without_claims_and_migrations(fleet, make):
    guest = fleet.claim_instance(make.guest("db1", "A", "4-5")).instance
    with pytest.raises(Conflict, match="1 claims and 0 migrations"):
        fleet.remove_host("A")
    move = fleet.live_migration_claim(guest.uuid, ["B"])
    with pytest.raises(Conflict, match="1 claims and 1 migrations"):
        fleet.remove_host("B")
    fleet.confirm_migration(move.migration.id, status=MigrationStatus.COMPLETED)
    fleet.remove_host("A")
    assert [host.name for host in fleet.hosts()] == ["B"]
    assert fleet.migration(move.migration.id).source == "A"


def test_every_change_of_a_host_is_told(fleet, make):
    fleet.confirm_host("A", make.config(dedicated="4-7"))
    fleet.set_host_state("A", "unreachable", "no route")
    said = [event.sentence for event in fleet.events(host="A")]
    assert said == [
        "host A added (test:///A), confirmed",
        "host A confirmed: dedicated CPUs 4-7, shared CPUs 0-1, 512 MiB reserved",
        "host A is unreachable: no route",
    ]


def test_findings_are_replaced_as_a_whole(fleet):
    from types import SimpleNamespace as Found  # noqa: PLC0415  (any object with the fields is a finding)

    first = Found(kind="stray", severity="warning", subject="vm1", sentence="vm1 floats", remedy="")
    second = Found(kind="double", severity="error", subject="CPU 4", sentence="two guests", remedy="audit A")
    fleet.record_findings("A", [first])
    fleet.record_findings("A", [second])
    fleet.record_findings("B", [first])
    assert [(one.host, one.kind, one.remedy) for one in fleet.findings()] == [
        ("A", "double", "audit A"),
        ("B", "stray", ""),
    ]
    assert [one.kind for one in fleet.findings("B")] == ["stray"]
    with pytest.raises(NotFound):
        fleet.findings("C")
