"""Moves as an operator makes them: what the guest has on the destination, live and after it is started there anew."""

from __future__ import annotations

import pytest

from numaferry.lab.guests import GuestCell

pytestmark = pytest.mark.lab


def placement(root):
    """Return all of a domain's XML that names host CPUs, host cells or host links."""
    return {
        "vcpus": [(pin.get("vcpu"), pin.get("cpuset")) for pin in root.findall("cputune/vcpupin")],
        "emulator": [pin.get("cpuset") for pin in root.findall("cputune/emulatorpin")],
        "iothreads": sorted((pin.get("iothread"), pin.get("cpuset")) for pin in root.findall("cputune/iothreadpin")),
        "memnodes": [(node.get("cellid"), node.get("nodeset")) for node in root.findall("numatune/memnode")],
        "link": [source.get("dev") for source in root.findall("devices/interface[@type='direct']/source")],
    }


def test_a_persistent_guest_is_started_anew_on_the_destination_with_the_claimed_placement(operator):
    """Launchpad 1890501: the persistent XML kept the source's pins, and took effect at the next start."""
    guest = operator.start(iothreads=2, iothread_pins={1: "1", 2: "1"})
    operator.run("instance", "adopt", "db1")
    said = operator.run("migrate", "db1")
    assert "db1 moved from alpha to beta" in said.out
    operator.settled(guest, "beta")
    claimed = {
        "vcpus": [("0", "1")],
        "emulator": ["0"],
        "iothreads": [("1", "0"), ("2", "0")],
        "memnodes": [("0", "0")],
        "link": [operator.lab.host("beta").data_links[0]],
    }
    assert placement(operator.xml("beta", "db1")) == claimed
    operator.virsh("beta", "destroy", "db1")
    operator.virsh("beta", "start", "db1")
    guest.watch.until(lambda told: told.starts == 2, what="second start", timeout_s=30)
    assert placement(operator.xml("beta", "db1")) == claimed
    assert placement(operator.xml("beta", "db1", "--inactive")) == claimed
    masks = operator.masks("beta", guest)
    assert masks["CPU_0/TCG"] == "1"
    assert (masks["IO_iothread1"], masks["IO_iothread2"]) == ("0", "0")
    assert operator.told("audit")["findings"] == [], "the guest that was started anew still has what was promised"


def test_a_transient_guest_stays_transient_and_leaves_nothing_on_the_source(operator):
    guest = operator.start(persistent=False)
    operator.run("instance", "adopt", "db1")
    for dest in ("beta", "alpha"):
        operator.run("migrate", "db1")
        operator.settled(guest, dest)
        assert "persistent:     no" in " ".join(operator.virsh(dest, "dominfo", "db1").lower().splitlines())


def test_a_floating_guest_moves_with_the_destinations_shared_set(operator):
    """It has no pins, so nothing but `<vcpu cpuset>` keeps it off the dedicated CPUs of where it arrives."""
    guest = operator.start(
        "web1", vcpu_pins={}, emulator_pin=None, cpuset="1", cells=(GuestCell("0", 48),), memory_nodeset=None
    )
    (line,) = operator.told("instance", "adopt", "web1")
    assert (line["outcome"], line["promise"]) == ("adopted", "floating")
    assert operator.told("instance", "show", "web1")["numa_topology"] is None
    operator.run("migrate", "web1")
    assert operator.running("web1") == ["beta"]
    assert guest.goes_on()
    for words in ((), ("--inactive",)):
        root = operator.xml("beta", "web1", *words)
        assert root.find("vcpu").get("cpuset") == "0"
        assert root.findall("cputune/vcpupin") == []
    assert operator.masks("beta", guest)["CPU_0/TCG"] == "0"
    assert operator.told("audit")["findings"] == []
