"""A throw-away copy of a ledger: what a dry run claims on; it says the same, and keeps the same promises."""

from __future__ import annotations

import pytest

from numaferry.errors import Conflict, LedgerUnusable
from numaferry.ledger import open_ledger
from numaferry.model import MigrationStatus, PciAddress, PciDevice


@pytest.fixture
def busy(fleet, make):
    """A fleet with a guest that runs, one that moves, one that moved, a device, and something seen."""
    fleet.set_devices("B", [PciDevice(PciAddress.parse("0000:81:00.1"), "8086", "1572", 1)])
    fleet.set_observed("B", [make.seen("stray", "2")])
    guests = [
        fleet.claim_instance(make.guest(name, "A", cpus)).instance
        for name, cpus in (("a", "2"), ("b", "3"), ("c", "4"))
    ]
    moved = fleet.live_migration_claim(guests[1].uuid, ["B"]).migration
    fleet.confirm_migration(moved.id, status=MigrationStatus.COMPLETED)
    given_up = fleet.live_migration_claim(guests[0].uuid, ["B"]).migration
    fleet.drop_move_claim(given_up.id, MigrationStatus.FAILED, "x")
    fleet.live_migration_claim(guests[2].uuid, ["B"])
    return fleet


@pytest.fixture
def copy(busy, tmp_path):
    busy.copy_to(tmp_path / "copy.sqlite")
    opened = open_ledger(str(tmp_path / "copy.sqlite"))
    yield opened
    opened.close()


def test_a_copy_says_the_same(busy, copy):
    assert copy.ledger_id == busy.ledger_id
    assert copy.hosts() == busy.hosts()
    assert copy.instances() == busy.instances()
    for host in ("A", "B"):
        assert copy.view(host) == busy.view(host)
        assert copy.explain_host(host) == busy.explain_host(host)
    assert [move.id for move in copy.migrations()] == [1, 3], "a move that left no claim is not needed"
    assert copy.events() == ()


def test_what_is_done_on_a_copy_is_done_there_alone(busy, copy):
    before = busy.view("B")
    moving = copy.instance("c")
    with pytest.raises(Conflict, match="being moved"):
        copy.live_migration_claim(moving.uuid, ["B"])
    copy.confirm_migration(3, status=MigrationStatus.COMPLETED)
    assert copy.live_migration_claim(copy.instance("a").uuid, ["B"]).migration.id == 4
    assert busy.view("B") == before


def test_a_copy_keeps_its_promises_as_the_ledger_does(copy):
    """Its keys and triggers are the ledger's, the deferred key of the current claim among them."""
    with copy._read() as connection:
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        table = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = 'instance'").scalar_one()
        triggers = connection.exec_driver_sql("SELECT count(*) FROM sqlite_master WHERE type = 'trigger'").scalar_one()
    assert broken == []
    assert "instance_current_claim" in table
    assert triggers > 20


def test_a_copy_that_has_no_place_is_told(busy, tmp_path):
    with pytest.raises(LedgerUnusable):
        busy.copy_to(tmp_path / "no" / "such" / "folder" / "copy.sqlite")
