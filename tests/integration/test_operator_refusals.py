"""What can't be moved is refused before anything is touched, with the reason and the documented exit code."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest
from lxml import etree

from labs import clear_guests
from numaferry.lab.guests import GuestCell

pytestmark = pytest.mark.lab

#: Tables that may change when nothing happens: what was seen, and what was said of it.
SEEN = {"event", "observed_use", "observed_cpu", "finding", "host"}

NOVA = "http://openstack.org/xmlns/libvirt/nova/1.1"


def promises(operator):
    """Return every row of the ledger that is a promise or a migration."""
    with contextlib.closing(sqlite3.connect(operator.db)) as database:
        names = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        kept = [name for name in names if name not in SEEN]
        return {name: sorted(map(repr, database.execute(f'SELECT * FROM "{name}"'))) for name in kept}  # noqa: S608  (its own tables)


@contextlib.contextmanager
def link_down(operator):
    link = operator.lab.host("beta").data_links[0]
    operator.lab.host("beta").exec(f"ip link set {link} down")
    try:
        yield [link, "down"]
    finally:
        operator.lab.host("beta").exec(f"ip link set {link} up")


@contextlib.contextmanager
def link_missing(operator):
    host = operator.lab.host("beta")
    link = host.data_links[0]
    host.exec(f"ip link set {link} down; ip link set {link} name gone0")
    try:
        yield [link]
    finally:
        host.exec(f"ip link set gone0 name {link}; ip link set {link} up")


@contextlib.contextmanager
def libvirtd_silent(operator):
    """Take its address from the host: its libvirtd is as far away as that of a machine that is off."""
    host = operator.lab.host("beta")
    host.exec(f"ip addr del {host.ip}/24 dev mgmt0")
    try:
        yield ["host beta can't be asked"]
    finally:
        host.exec(f"ip addr add {host.ip}/24 dev mgmt0")


@contextlib.contextmanager
def name_taken(operator):
    other = operator.start(
        "db1", "beta", nics=(), vcpu_pins={}, emulator_pin=None, cpuset="0", cells=(GuestCell("0", 32),)
    )
    # the serial file is shared by name: the one that counts is the source's, which goes on
    yield ["beta", "already has a domain named db1", other.uuid]


@contextlib.contextmanager
def paused(operator):
    operator.virsh("alpha", "suspend", "db1")
    try:
        yield ["db1", "paused"]
    finally:
        operator.virsh("alpha", "resume", "db1")


@contextlib.contextmanager
def device_that_cannot_move(operator):
    yield ["1 shared file system"]


def with_filesystem(root):
    share = etree.SubElement(root.find("devices"), "filesystem", type="mount", accessmode="squash")
    etree.SubElement(share, "source", dir="/tmp")  # noqa: S108
    etree.SubElement(share, "target", dir="share0")


CASES = {
    "the link on the destination is down": (link_down, 5),
    "the link on the destination is missing": (link_missing, 5),
    "the destination does not answer": (libvirtd_silent, 8),
    "the name is taken on the destination": (name_taken, 5),
    "the guest is paused": (paused, 5),
    "a device can't move": (device_that_cannot_move, 5),
}


@pytest.mark.parametrize("case", CASES)
def test_a_move_is_refused_before_anything_is_touched(operator, case):
    trouble, code = CASES[case]
    edit = with_filesystem if trouble is device_that_cannot_move else lambda _root: None
    guest = operator.start(edit=edit)
    operator.run("instance", "adopt", "db1")
    before = promises(operator)
    xml = operator.virsh("alpha", "dumpxml", "db1")
    with trouble(operator) as words:
        there = [] if trouble is libvirtd_silent else operator.names("beta")
        said = operator.run("migrate", "db1", "--dest", "beta", code=code)
        assert promises(operator) == before
        assert there == ([] if trouble is libvirtd_silent else operator.names("beta"))
    assert len(said.err.strip().splitlines()) <= 2, "one line and a hint"
    for word in words:
        assert word in said.err
    assert operator.virsh("alpha", "dumpxml", "db1") == xml
    if trouble is not name_taken:
        assert guest.goes_on()
        operator.settled(guest, "alpha")


def test_a_guest_that_is_off_is_refused_with_the_way_to_start_it(operator):
    operator.start()
    operator.run("instance", "adopt", "db1")
    before = promises(operator)
    operator.virsh("alpha", "destroy", "db1")
    said = operator.run("migrate", "db1", code=3)
    assert "only a running guest can be moved live" in said.err
    assert "virsh -c" in said.err
    assert promises(operator) == before


def test_hosts_of_another_ledger_are_refused_unless_taken_over(operator):
    operator.start()
    operator.run("instance", "adopt", "db1")
    second = operator.folder / "second" / "ledger.sqlite"
    second.parent.mkdir()
    said = operator.import_hosts(db=second, code=3)
    assert "belong to another ledger" in said.err
    assert "--take-over" in said.err
    assert operator.run("host", "list", "-f", "json", db=second).told == [], "nothing was stored"
    operator.import_hosts("--take-over", db=second)
    refused = operator.run("instance", "adopt", "db1", db=second, code=3)
    assert "belongs to another ledger" in refused.err
    operator.run("instance", "adopt", "db1", "--force", db=second)
    operator.run("migrate", "db1", db=second)
    assert operator.running("db1") == ["beta"]
    late = operator.run("migrate", "db1", code=3)
    assert "not on alpha" in late.err


def managed_by_nova(root):
    metadata = etree.Element("metadata")
    instance = etree.SubElement(metadata, f"{{{NOVA}}}instance", nsmap={"nova": NOVA})
    etree.SubElement(instance, f"{{{NOVA}}}name").text = "vm-of-a-cloud"
    root.insert(1, metadata)


def test_a_guest_of_nova_is_seen_and_charged_and_neither_adopted_nor_moved_without_force(operator):
    operator.start(edit=managed_by_nova)
    report = operator.told("scan", operator.lab.host("alpha").uri)
    (seen,) = [one for host in report["hosts"] for one in host["guests"]]
    assert (seen["name"], seen["manager"], seen["pinned_cpus"]) == ("db1", "nova", "0")
    refused = operator.run("instance", "adopt", "db1", code=3)
    assert "managed by nova" in refused.err
    (skipped,) = operator.told("instance", "adopt", "--all")
    assert skipped["outcome"] == "skipped"
    line = next(one for one in operator.told("host", "list") if one["name"] == "alpha")
    assert line["free_dedicated"] == 0, "its CPU is charged to it"
    operator.run("instance", "adopt", "db1", "--force")
    refused = operator.run("migrate", "db1", code=3)
    assert "managed by nova" in refused.err
    assert operator.running("db1") == ["alpha"]
    operator.run("migrate", "db1", "--force")
    assert operator.running("db1") == ["beta"]
    clear_guests(operator.lab)
