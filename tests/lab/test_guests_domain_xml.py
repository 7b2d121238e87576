"""The domain XML of lab guests holds what the spec says, where libvirt looks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from numaferry.errors import InvalidInput
from numaferry.lab.guests import BridgeNic, GuestCell, GuestImage, GuestSpec, MacvtapNic, domain_xml

TINY = GuestImage(kind="tiny", kernel=Path("/share/guests/tiny.elf"))
LINUX = GuestImage(kind="linux", kernel=Path("/share/guests/vmlinuz"), initrd=Path("/share/guests/initrd"))
CELLS = (GuestCell(vcpus="0", memory_mib=64, nodeset="1"), GuestCell(vcpus="1", memory_mib=32, nodeset="0"))


def made(**words: Any) -> etree._Element:
    return etree.fromstring(domain_xml(GuestSpec(**{"name": "g", "image": TINY, "serial": Path("/share/g"), **words})))


def one(parent: etree._Element, path: str) -> etree._Element:
    (found,) = parent.findall(path)
    return found


def test_pins_cells_and_binding_are_where_libvirt_looks_for_them() -> None:
    root = made(
        vcpus=2, cells=CELLS, vcpu_pins={0: "4", 1: "6"}, emulator_pin="3,7", iothreads=1, iothread_pins={1: "2"}
    )
    pins = {(pin.tag, pin.get("vcpu") or pin.get("iothread")): pin.get("cpuset") for pin in one(root, "cputune")}
    assert pins == {
        ("vcpupin", "0"): "4",
        ("vcpupin", "1"): "6",
        ("emulatorpin", None): "3,7",
        ("iothreadpin", "1"): "2",
    }
    assert [cell.get("memory") for cell in root.findall("cpu/numa/cell")] == ["64", "32"]
    assert {node.get("cellid"): node.get("nodeset") for node in root.findall("numatune/memnode")} == {
        "0": "1",
        "1": "0",
    }
    assert one(root, "numatune/memory").get("nodeset") == "1,0"
    assert root.findtext("memory") == "96"


def test_nothing_is_tuned_that_was_not_asked_for() -> None:
    root = made()
    assert [root.find(tag) for tag in ("cputune", "numatune", "memoryBacking", "iothreads", "uuid")] == [None] * 5
    assert "cpuset" not in one(root, "vcpu").attrib


def test_a_macvtap_names_its_parent_and_a_bridge_nic_its_bridge() -> None:
    root = made(nics=(MacvtapNic("ens4f0", "52:54:00:00:00:01"), BridgeNic("labbr0", "52:54:00:00:00:02", "e1000")))
    macvtap, bridge = root.findall("devices/interface")
    assert (macvtap.get("type"), one(macvtap, "source").get("dev"), one(macvtap, "source").get("mode")) == (
        *("direct", "ens4f0", "bridge"),
    )
    assert (bridge.get("type"), one(bridge, "source").get("bridge")) == ("bridge", "labbr0")
    assert [one(nic, "model").get("type") for nic in (macvtap, bridge)] == ["virtio", "e1000"]


def test_the_serial_line_is_appended_to_so_that_a_migration_does_not_empty_it() -> None:
    assert one(made(), "devices/serial/source").get("append") == "on"


def test_a_linux_guest_has_ports_to_plug_into_and_its_address_on_the_command_line() -> None:
    root = made(image=LINUX, address="10.1.0.5/24", dirty_mib=3)
    ports = [each for each in root.findall("devices/controller") if each.get("model") == "pcie-root-port"]
    assert len(ports) >= 2
    assert {"address=10.1.0.5/24", "dirty=3"} <= set((one(root, "os/cmdline").text or "").split())


def test_text_with_markup_in_it_stays_text() -> None:
    assert made(name="a<b>&'c").findtext("name") == "a<b>&'c"


def test_memory_that_is_no_whole_number_of_pages_is_refused() -> None:
    with pytest.raises(InvalidInput, match="33 MiB of a cell of g"):
        made(cells=(GuestCell("0", 33),), hugepages=True)
