"""Real NUMA: huge pages that are claimed, leave the pools of the very cells, and come back."""

from __future__ import annotations

import re

import pytest

from labs import clear_guests
from numaferry.lab.guests import GuestCell, MacvtapNic

pytestmark = pytest.mark.hosts

#: On beta only cell 0 has a shared CPU: the emulator's pin has none on cell 1, where huge pages lie too.
SETS = {"alpha": ("1-3,5-7", "0,4"), "beta": ("1-7", "0")}
MAC = "52:54:00:00:0c:01"


@pytest.fixture
def fleet(hosts_lab, tmp_path, operator_class):
    """An operator on the hosts lab: alpha with SMT, beta of the same size without and with half the pages."""
    made = operator_class(hosts_lab, tmp_path, SETS)
    made.import_hosts()
    yield made
    clear_guests(hosts_lab)


def start(fleet, name, *, mib, **changes):
    """Start a guest of two cells with 2 MiB pages on alpha."""
    alpha = fleet.lab.host("alpha")
    wanted = {
        "vcpus": 2,
        "cells": (GuestCell("0", mib[0], "0"), GuestCell("1", mib[1], "1")),
        "vcpu_pins": {0: "2", 1: "6"},
        "emulator_pin": "0,4",
        "hugepages": True,
        "nics": (MacvtapNic(alpha.data_links[0], MAC),),
    }
    guest = fleet.start(name, **(wanted | changes))
    fleet.run("instance", "adopt", name)
    return guest


def free_pages(fleet, host):
    """Return the free pages of 2 MiB by cell, as virsh tells them."""
    told = fleet.virsh(host, "freepages", "--all")
    return {
        int(cell): int(count)
        for cell, rows in re.findall(r"Node (\d+):\n((?:.+\n)+)", told)
        for count in re.findall(r"2048KiB: (\d+)", rows)
    }


def claimed_pages(fleet, name):
    """Return the pages that an instance is promised, by host cell."""
    cells = fleet.told("instance", "show", name)["numa_topology"]["cells"]
    pages = {}
    for cell in cells:
        assert cell["page_size_kib"] == 2048
        pages[cell["host_cell"]] = pages.get(cell["host_cell"], 0) + cell["memory_kib"] // 2048
    return pages


def test_a_guest_in_huge_pages_moves_there_and_back_and_takes_its_pages_along(fleet):
    full = {host.name: free_pages(fleet, host.name) for host in fleet.lab.hosts}
    guest = start(fleet, "db1", mib=(32, 16))
    for source, dest in (("alpha", "beta"), ("beta", "alpha")):
        said = fleet.run("migrate", "db1", "--dest", dest)
        claimed = claimed_pages(fleet, "db1")
        assert sum(claimed.values()) == 24
        now = free_pages(fleet, dest)
        assert {cell: full[dest][cell] - now[cell] for cell in now} == {cell: claimed.get(cell, 0) for cell in now}
        assert free_pages(fleet, source) == full[source]
        assert re.search(r"read back on \w+: \d+ verified, 0 disagrees", said.out), said.out
        fleet.settled(guest, dest)
        topology = fleet.told("instance", "show", "db1")["numa_topology"]
        pins = {str(vcpu): str(cpu) for cell in topology["cells"] for vcpu, cpu in cell["cpu_pinning"]}
        masks = fleet.masks(dest, guest)
        for vcpu, cpu in pins.items():
            (mask,) = [value for name, value in masks.items() if name.startswith(f"CPU_{vcpu}/")]
            assert mask == cpu


def test_a_guest_that_is_too_large_is_refused_with_the_numbers_of_each_cell(fleet):
    start(fleet, "big1", mib=(140, 16))
    said = fleet.run("migrate", "big1", "--dest", "beta", code=4)
    assert "needs 70 pages of 2 MiB, 64 free, 6 missing" in said.err
    (told,) = fleet.told("explain", "big1", "beta")
    assert told["fits"] is False
    short = [one for one in told["misfit"]["shortages"] if "page" in one["resource"]]
    assert {(one["host_cell"], one["needed"], one["free"]) for one in short} == {(0, 70, 64), (1, 70, 64)}
    assert fleet.running("big1") == ["alpha"]
