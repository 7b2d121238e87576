"""The namespaces lab as it really runs: two libvirtds, a guest with pins, a move, frames on the wire."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import libvirt
import pytest

from numaferry.lab import control
from numaferry.lab.guests import (
    BridgeNic,
    GuestCell,
    GuestSpec,
    MacvtapNic,
    SerialWatch,
    domain_xml,
    listening,
    put_in_share,
)

if TYPE_CHECKING:
    from numaferry.lab import Lab, LabHost

pytestmark = pytest.mark.lab


def spec_of(lab: Lab, host: LabHost, name: str, **words: object) -> GuestSpec:
    return GuestSpec(
        **{  # type: ignore[arg-type]
            "name": name,
            "image": put_in_share(lab, "tiny"),
            "serial": host.share / f"{name}.serial",
            "vcpus": 2,
            "cells": (GuestCell("0", 32, "0"), GuestCell("1", 16, "0")),
            **words,
        }
    )


def affinity(host: LabHost, name: str) -> dict[str, str]:
    """Return the CPUs that each thread of the guest's QEMU may run on, by the thread's name, read from /proc."""
    pid = host.exec(f"cat /run/libvirt/qemu/{name}.pid").output.strip()
    told = host.exec(f"for t in /proc/{pid}/task/*; do cat $t/comm; grep Cpus_allowed_list $t/status; done").output
    return dict(re.findall(r"(.+)\nCpus_allowed_list:\t(\S+)", told))


def test_both_libvirts_answer_as_different_hosts(connections: list[Any]) -> None:
    names = [connection.getHostname() for connection in connections]
    uuids = {re.findall(r"<uuid>(.*)</uuid>", connection.getCapabilities())[0] for connection in connections}
    assert names == ["alpha", "beta"]
    assert len(uuids) == 2


def test_another_is_up_beside_it_within_five_seconds(
    timed_namespaces_lab: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first may have had to wait for libvirt to probe QEMU, the second finds what that one learned."""
    began = time.monotonic()
    try:
        other = control.up("namespaces", directory=tmp_path / "lab")
        up_s = time.monotonic() - began
    finally:
        control.down(directory=tmp_path / "lab")
    with capsys.disabled():
        print(f" up in {timed_namespaces_lab.up_s:.2f} s, again in {up_s:.2f} s", end=" ")  # noqa: T201 - measured
    assert up_s < 5
    assert other.hosts[0].ip not in {host.ip for host in timed_namespaces_lab.lab.hosts}


def test_a_guest_starts_with_the_pins_it_was_given(namespaces_lab: Lab, connections: list[Any]) -> None:
    host = namespaces_lab.hosts[0]
    watch = SerialWatch.of_new(namespaces_lab.share / "pinned.serial")
    pins = {"vcpu_pins": {0: "1", 1: "0"}, "emulator_pin": "0-1", "iothreads": 1, "iothread_pins": {1: "1"}}
    connections[0].createXML(domain_xml(spec_of(namespaces_lab, host, "pinned", **pins)))
    watch.until_count(3)
    seen = affinity(host, "pinned")
    assert (seen["CPU 0/TCG"], seen["CPU 1/TCG"], seen["IO iothread1"]) == ("1", "0", "1")


@pytest.mark.skipif(not Path("/dev/kvm").exists(), reason="this machine has no KVM")
def test_the_tiny_guest_runs_on_kvm_whatever_kind_of_kvm_it_is(namespaces_lab: Lab, connections: list[Any]) -> None:
    host = namespaces_lab.hosts[0]
    watch = SerialWatch.of_new(namespaces_lab.share / "kvm.serial")
    connections[0].createXML(domain_xml(spec_of(namespaces_lab, host, "kvm", domain_type="kvm")))
    watch.until_count(3, timeout_s=180)
    assert watch.until_more(5, timeout_s=180).intact
    assert {name for name in affinity(host, "kvm") if name.startswith("CPU")} == {"CPU 0/KVM", "CPU 1/KVM"}


def test_a_key_sent_by_libvirt_sets_how_much_a_guest_dirties(namespaces_lab: Lab, connections: list[Any]) -> None:
    watch = SerialWatch.of_new(namespaces_lab.share / "keys.serial")
    domain = connections[0].createXML(domain_xml(spec_of(namespaces_lab, namespaces_lab.hosts[0], "keys")))
    watch.until_count(2)
    linux_codes, key_3 = 0, 4
    domain.sendKey(linux_codes, 0, [key_3], 1, 0)
    assert watch.until(lambda told: told.dirty_mib is not None, what="new rate", timeout_s=20).dirty_mib == 4


def test_a_defined_guest_starts_stops_and_starts_again(namespaces_lab: Lab, connections: list[Any]) -> None:
    watch = SerialWatch.of_new(namespaces_lab.share / "kept.serial")
    domain = connections[1].defineXML(domain_xml(spec_of(namespaces_lab, namespaces_lab.hosts[1], "kept")))
    domain.create()
    watch.until_count(2)
    domain.destroy()
    domain.create()
    report = watch.until(lambda told: told.starts == 2, what="second start", timeout_s=20)
    assert not report.intact


def test_a_plain_virsh_migrate_keeps_the_guest_counting(namespaces_lab: Lab, connections: list[Any]) -> None:
    source, dest = namespaces_lab.hosts
    watch = SerialWatch.of_new(namespaces_lab.share / "moved.serial")
    nic = BridgeNic(source.bridges[0], "52:54:00:00:01:01")
    connections[0].createXML(domain_xml(spec_of(namespaces_lab, source, "moved", nics=(nic,), dirty_mib=1)))
    watch.until_count(3)
    with watch.following():
        subprocess.run(
            ["virsh", "-c", source.uri, "migrate", "--live", "--p2p", "moved", dest.uri],
            check=True,
            capture_output=True,
            timeout=60,
        )
        report = watch.until_more(20)
    assert report.intact, report
    assert report.longest_gap_s < 30
    assert [domain.name() for domain in connections[0].listAllDomains()] == []
    assert [domain.name() for domain in connections[1].listAllDomains()] == ["moved"]


def test_a_macvtap_guest_is_heard_at_the_source_before_and_at_the_destination_after(
    namespaces_lab: Lab, connections: list[Any]
) -> None:
    source, dest = namespaces_lab.hosts
    mac = "52:54:00:00:02:01"
    watch = SerialWatch.of_new(namespaces_lab.share / "heard.serial")
    spec = spec_of(namespaces_lab, source, "heard", nics=(MacvtapNic(source.data_links[0], mac),))
    domain = connections[0].createXML(domain_xml(spec))
    watch.until_count(3)
    moved = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE).replace(source.data_links[0], dest.data_links[0])
    ports = ["d1", "d2"]
    with listening(namespaces_lab.netns, ports) as frames_during:
        before = {frame.link for frame in frames_during(1) if frame.mac == mac}
        domain.migrateToURI3(
            dest.uri,
            {libvirt.VIR_MIGRATE_PARAM_DEST_XML: moved},
            libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER,
        )
        frames_during(0.2)
        at_least = (watch.poll().last or 0) - 5
        after = [frame for frame in frames_during(1.5) if frame.mac == mac and frame.counter > at_least]
    assert before == {ports[0]}
    assert {frame.link for frame in after} == {ports[1]}
    assert watch.until_more(2).intact


def test_two_hosts_macvtaps_of_the_same_index_are_different_devices(
    namespaces_lab: Lab, connections: list[Any]
) -> None:
    """/dev/tapN is named after an index in the host's network namespace, in a /dev that all namespaces share."""
    devices: list[str] = []
    for host, connection in zip(namespaces_lab.hosts, connections, strict=True):
        SerialWatch.of_new(namespaces_lab.share / f"tap-{host.name}.serial")
        nic = MacvtapNic(host.data_links[0], f"52:54:00:00:03:0{len(devices)}")
        connection.createXML(domain_xml(spec_of(namespaces_lab, host, f"tap-{host.name}", nics=(nic,))))
        link = host.exec("ls -d /sys/class/net/macvtap*").output.split()[-1]
        known = host.exec(f"cat {link}/tap*/dev").output.strip()
        node = host.exec(f"stat -c %t:%T /dev/tap$(cat {link}/ifindex)").output.strip()
        assert ":".join(str(int(part, 16)) for part in node.split(":")) == known
        devices.append(known)
    assert devices[0] != devices[1]


def test_the_first_process_reaps_orphans(namespaces_lab: Lab) -> None:
    host = namespaces_lab.hosts[0]
    host.exec("for n in 1 2 3; do (sh -c 'sleep 0.05 &' ); done; sleep 0.5")
    states = host.exec("for p in /proc/[0-9]*/stat; do cat $p; done 2>/dev/null").output
    assert ") S" in states
    assert ") Z" not in states


def test_the_machines_own_folders_do_not_appear_in_a_host_nor_the_hosts_in_them(namespaces_lab: Lab) -> None:
    host = namespaces_lab.hosts[0]
    host.exec("touch /var/lib/libvirt/mark /run/mark /dev/mark /etc/libvirt/mark")
    assert host.exec("ls /var/lib/libvirt/mark /run/mark /dev/mark /etc/libvirt/mark").exit_code == 0
    assert not any(Path(path, "mark").exists() for path in ("/var/lib/libvirt", "/run", "/dev", "/etc/libvirt"))


def test_a_libvirtd_that_was_killed_is_started_again_and_its_guests_run_on(
    namespaces_lab: Lab, connections: list[Any]
) -> None:
    host = namespaces_lab.hosts[0]
    watch = SerialWatch.of_new(namespaces_lab.share / "stays.serial")
    uuid = connections[0].createXML(domain_xml(spec_of(namespaces_lab, host, "stays"))).UUIDString()
    watch.until_count(3)
    before = host.exec("cat /run/libvirtd.pid").output
    host.exec("kill -9 $(cat /run/libvirtd.pid)")
    deadline = time.monotonic() + 30
    while not host.answers() or host.exec("cat /run/libvirtd.pid").output == before:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert watch.until_more().intact
    again = libvirt.open(host.uri)
    assert again.lookupByUUIDString(uuid).isActive()
    again.close()
