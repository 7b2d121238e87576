"""The linux guest in the namespaces lab: it has an address, moves, and lets go of a device when asked."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import libvirt
import pytest
from lxml import etree

from numaferry.lab.guests import BridgeNic, GuestCell, GuestSpec, SerialWatch, domain_xml, listening, put_in_share

if TYPE_CHECKING:
    from numaferry.lab import Lab

pytestmark = pytest.mark.lab

MAC = "52:54:00:00:05:01"
ADDRESS = "10.250.7.5"
PING = f"for n in 1 2 3 4 5; do /bin/busybox ping -c1 -W2 {ADDRESS} && exit 0; done; exit 1"
JOIN = "ip addr replace 10.250.7.1/24 dev labbr0"
LEAVE = "ip addr flush dev labbr0"


def test_it_answers_moves_and_lets_go_of_its_nic(namespaces_lab: Lab, connections: list[Any]) -> None:
    source, dest = namespaces_lab.hosts
    watch = SerialWatch.of_new(namespaces_lab.share / "debian.serial")
    spec = GuestSpec(
        name="debian",
        image=put_in_share(namespaces_lab, "linux"),
        serial=source.share / "debian.serial",
        vcpus=2,
        cells=(GuestCell("0", 96), GuestCell("1", 96)),
        vcpu_pins={0: "0", 1: "1"},
        nics=(BridgeNic("labbr0", MAC),),
        address=f"{ADDRESS}/24",
        dirty_mib=1,
    )
    domain = connections[0].createXML(domain_xml(spec))
    watch.until_count(3, timeout_s=120)
    source.exec(JOIN)
    assert source.exec(PING).exit_code == 0

    domain.migrateToURI3(dest.uri, {}, libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER)
    assert watch.until_more(5, timeout_s=120).intact
    source.exec(LEAVE)
    dest.exec(JOIN)
    assert dest.exec(PING).exit_code == 0
    ports = ["b1", "b2"]
    with listening(namespaces_lab.netns, ports) as frames_during:
        assert {frame.link for frame in frames_during(3) if frame.mac == MAC} == {ports[1]}

    moved = connections[1].lookupByName("debian")
    (nic,) = etree.fromstring(moved.XMLDesc()).findall("devices/interface")
    moved.detachDeviceFlags(etree.tostring(nic, encoding="unicode"), libvirt.VIR_DOMAIN_AFFECT_LIVE)
    deadline = time.monotonic() + 60
    while etree.fromstring(moved.XMLDesc()).findall("devices/interface"):
        assert time.monotonic() < deadline, "the guest did not let go of its NIC"
        time.sleep(0.1)
    moved.attachDeviceFlags(
        f"<interface type='bridge'><mac address='{MAC}'/><source bridge='labbr0'/><model type='virtio'/></interface>",
        libvirt.VIR_DOMAIN_AFFECT_LIVE,
    )
    assert dest.exec(PING).exit_code == 0
    dest.exec(LEAVE)
    assert watch.until_more(5, timeout_s=60).intact
