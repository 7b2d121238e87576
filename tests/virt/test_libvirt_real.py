"""The libvirt side against two real libvirtds: what it reports is compared with what the hosts' kernels say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import attrs
import libvirt
import pytest

from numaferry.errors import HostUnreachable, HypervisorError, NotFound
from numaferry.lab.guests import domain_xml
from numaferry.model import CpuSet, DomainState, Ownership, Vif, VifKind, XmlKind
from numaferry.virt.libvirt.driver import LibvirtHypervisor
from real_moves import MAC, SLOW_MIB_S, call_to, in_thread, spec_on, start, until

pytestmark = pytest.mark.lab


def kernel_masks(host, name):
    """Thread name → CPUs allowed, from the host's /proc."""
    told = host.exec(
        f"for t in /proc/$(cat /run/libvirt/qemu/{name}.pid)/task/*; do "
        "echo $(cat $t/comm)=$(sed -n 's/Cpus_allowed_list:\\t//p' $t/status); done"
    )
    return dict(line.rsplit("=", 1) for line in told.output.split("\n") if "=" in line)


def test_facts_agree_with_the_hosts_own_kernel(real_lab, real_hosts):
    for host, hypervisor in zip(real_lab.hosts, real_hosts, strict=True):
        facts = hypervisor.facts()
        assert facts.hostname == host.name
        online = host.exec("cat /sys/devices/system/cpu/online").output.strip()
        assert facts.topology.cpus == CpuSet.parse(online)
        assert "kvm" in facts.domain_types or "qemu" in facts.domain_types
        present = set(host.exec("ls /sys/class/net").output.split())
        assert set(facts.links) <= present
        assert {host.data_links[0], host.bridges[0]} <= set(facts.links)
        assert hypervisor.free_pages().keys() == {cell.id for cell in facts.topology.cells}
    assert real_hosts[0].facts().uuid != real_hosts[1].facts().uuid


def test_a_running_guest_is_seen_with_the_kernels_masks(real_lab, real_hosts):
    host, hypervisor = real_lab.hosts[0], real_hosts[0]
    uuid = start(host, spec_on(real_lab, host))
    (seen,) = hypervisor.domains()
    assert (seen.uuid, seen.state, seen.state_reason, seen.persistent) == (uuid, DomainState.RUNNING, "booted", False)
    masks = hypervisor.thread_masks(uuid)
    proc = kernel_masks(host, "g1")
    assert {str(mask) for _, mask in masks.iothreads} == {proc["IO iothread1"]} == {"1"}
    assert dict(masks.vcpus) == {0: CpuSet.parse("0"), 1: CpuSet.parse("1")}
    assert [proc[f"CPU {number}/TCG"] for number in (0, 1)] == ["0", "1"]


def test_a_mask_that_is_set_behind_libvirts_back_is_what_is_read(real_lab, real_hosts):
    host, hypervisor = real_lab.hosts[0], real_hosts[0]
    uuid = start(host, spec_on(real_lab, host))
    moved = host.exec(
        "for t in /proc/$(cat /run/libvirt/qemu/g1.pid)/task/*; do "
        "grep -q 'CPU 1\\|IO iothread1' $t/comm && taskset -pc 0 $(basename $t); done; true"
    )
    assert moved.output.count("new affinity list: 0") == 2, moved
    masks = hypervisor.thread_masks(uuid)
    assert dict(masks.vcpus)[1] == CpuSet.parse("0")
    assert dict(masks.iothreads)[1] == CpuSet.parse("0")
    assert "vcpupin vcpu='1' cpuset='1'" in hypervisor.domain(uuid).xml, "the XML only echoes"
    hypervisor.set_pins(uuid, {1: CpuSet.parse("1")}, CpuSet.parse("1"), persistent=False)
    assert dict(hypervisor.thread_masks(uuid).vcpus)[1] == CpuSet.parse("1")
    assert kernel_masks(host, "g1")["CPU 1/TCG"] == "1"


def test_ownership_is_kept_live_and_persistent_and_moves_along(real_lab, real_hosts):
    source, dest = real_hosts
    uuid = start(real_lab.hosts[0], spec_on(real_lab, real_lab.hosts[0]), persistent=True)
    ours = Ownership("ledger-1", "claim-2", "move-3", 4)
    source.set_ownership(uuid, ours)
    source.set_ownership(uuid, ours)
    assert source.domain(uuid).ownership == ours
    assert "claim-2" in source.domain_xml(uuid, XmlKind.INACTIVE)
    source.live_migration(call_to(real_lab, source, uuid))
    assert dest.domain(uuid).ownership == ours
    dest.set_ownership(uuid, None)
    dest.set_ownership(uuid, None)
    assert dest.domain(uuid).ownership is None
    assert "claim-2" not in dest.domain_xml(uuid, XmlKind.INACTIVE)


def test_a_transient_guest_moves_with_new_pins_and_link_and_stays_transient(real_lab, real_hosts):
    source, dest = real_hosts
    uuid = start(real_lab.hosts[0], spec_on(real_lab, real_lab.hosts[0]))
    source.live_migration(call_to(real_lab, source, uuid))
    assert source.domain(uuid) is None
    assert source.completed_job(uuid) is None
    moved = dest.domain(uuid)
    assert (moved.state, moved.state_reason, moved.persistent) == (DomainState.RUNNING, "migrated", False)
    assert real_lab.hosts[1].data_links[0] in moved.xml
    assert dict(dest.thread_masks(uuid).vcpus) == {0: CpuSet.parse("1"), 1: CpuSet.parse("0")}
    assert kernel_masks(real_lab.hosts[1], "g1")["CPU 0/TCG"] == "1"
    done = dest.completed_job(uuid)
    assert done.completed
    assert done.memory_total_bytes >= 64 * 2**20
    assert 0 < done.downtime_ms <= done.time_elapsed_ms
    assert dest.completed_job(uuid) == done, "reading does not forget"
    assert dest.job(uuid) is None


def test_a_persistent_guest_has_the_new_pins_after_a_restart_on_the_destination(real_lab, real_hosts):
    """Without the persistent XML the source's pins come back with the next start (nova LP 1890501)."""
    source, dest = real_hosts
    uuid = start(real_lab.hosts[0], spec_on(real_lab, real_lab.hosts[0]), persistent=True)
    source.live_migration(call_to(real_lab, source, uuid))
    assert source.domain(uuid) is None
    assert dest.domain(uuid).persistent
    connection = libvirt.open(real_lab.hosts[1].uri)
    domain = connection.lookupByUUIDString(uuid)
    domain.destroy()
    off = dest.domain(uuid)
    assert (off.state, off.state_reason) == (DomainState.SHUTOFF, "destroyed")
    with pytest.raises(HypervisorError, match="inactive domain"):
        dest.thread_masks(uuid)
    domain.create()
    connection.close()
    assert dict(dest.thread_masks(uuid).vcpus) == {0: CpuSet.parse("1"), 1: CpuSet.parse("0")}


def test_a_job_is_watched_and_aborted_from_another_connection_and_the_guest_stays(real_lab, real_hosts):
    source, dest = real_hosts
    uuid = start(real_lab.hosts[0], spec_on(real_lab, real_lab.hosts[0], dirty_mib=2))
    assert source.job(uuid) is None
    source.abort_job(uuid)
    call = call_to(real_lab, source, uuid, bandwidth_mib_s=SLOW_MIB_S)
    worker, errors = in_thread(lambda: source.live_migration(call))
    job = until("progress", lambda: (now := source.job(uuid)) and now.memory_processed_bytes and now)
    assert 0 < job.memory_processed_bytes < job.memory_total_bytes
    assert job.memory_iteration >= 1
    assert job.memory_page_size_bytes == 4096
    incoming = dest.domain(uuid)
    assert (incoming.state, incoming.state_reason) == (DomainState.PAUSED, "migration")
    assert dest.job(uuid).memory_total_bytes == 0, "the destination knows of the job, and no figures"
    source.abort_job(uuid)
    worker.join(30)
    assert ["canceled by client" in error.message for error in errors] == [True]
    assert source.domain(uuid).state is DomainState.RUNNING
    assert source.job(uuid) is None
    assert dest.domain(uuid) is None
    source.live_migration(call_to(real_lab, source, uuid))
    assert dest.domain(uuid).state is DomainState.RUNNING


KILLED_CLIENT = """
import pickle, sys
from numaferry import virt
uri, call = pickle.load(sys.stdin.buffer)
virt.connect(uri).live_migration(call)
"""


@pytest.mark.parametrize("persistent", [False, True])
def test_a_guest_that_ends_while_it_moves_ends_the_move_and_leaves_nothing_on_the_destination(
    real_lab, real_hosts, persistent
):
    source, dest = real_hosts
    uuid = start(real_lab.hosts[0], spec_on(real_lab, real_lab.hosts[0], dirty_mib=2), persistent=persistent)
    call = call_to(real_lab, source, uuid, bandwidth_mib_s=SLOW_MIB_S)
    worker, errors = in_thread(lambda: source.live_migration(call))
    until("progress", lambda: (now := source.job(uuid)) and now.memory_processed_bytes)
    real_lab.hosts[0].exec("kill -9 $(cat /run/libvirt/qemu/g1.pid)")
    worker.join(60)
    assert [type(error) for error in errors] == [HypervisorError]
    until("the end of the destination's half", lambda: dest.domain(uuid) is None)
    left = source.domain(uuid)
    assert (left and (left.state, left.state_reason)) == ((DomainState.SHUTOFF, "crashed") if persistent else None)
    assert source.job(uuid) is None
    assert source.completed_job(uuid) is None
    source.abort_job(uuid)


def test_a_destination_that_dies_under_way_leaves_the_guest_where_it_was(real_lab, real_hosts):
    source, dest = real_hosts
    uuid = start(real_lab.hosts[0], spec_on(real_lab, real_lab.hosts[0], dirty_mib=2))
    call = call_to(real_lab, source, uuid, bandwidth_mib_s=SLOW_MIB_S)
    worker, errors = in_thread(lambda: source.live_migration(call))
    until("progress", lambda: (now := source.job(uuid)) and now.memory_processed_bytes)
    real_lab.hosts[1].exec("kill -9 $(cat /run/libvirt/qemu/g1.pid)")
    worker.join(60)
    assert [type(error) for error in errors] == [HypervisorError]
    assert source.domain(uuid).state is DomainState.RUNNING
    assert dest.domain(uuid) is None


def test_the_job_goes_on_when_the_client_is_killed(real_lab, real_hosts):
    import pickle  # noqa: PLC0415  (only to hand a value to a child of this very test)

    source, dest = real_hosts
    uuid = start(real_lab.hosts[0], spec_on(real_lab, real_lab.hosts[0]))
    call = call_to(real_lab, source, uuid, bandwidth_mib_s=16)
    client = subprocess.Popen([sys.executable, "-c", KILLED_CLIENT], stdin=subprocess.PIPE)
    client.stdin.write(pickle.dumps((source.uri, call)))
    client.stdin.close()
    until("progress", lambda: (now := source.job(uuid)) and now.memory_processed_bytes)
    os.kill(client.pid, signal.SIGKILL)
    assert client.wait(10) == -signal.SIGKILL
    assert source.job(uuid).memory_remaining_bytes > 0
    until("the end of the job", lambda: source.domain(uuid) is None and dest.job(uuid) is None)
    assert (dest.domain(uuid).state, dest.domain(uuid).state_reason) == (DomainState.RUNNING, "migrated")


#: what is changed in the destination's XML → libvirt's words; the same are said by the simulated host
REFUSALS = {
    "link": ("{link}", "eth9", "Unable to get index for interface eth9: No such device"),
    "bridge": ("{bridge}", "br77", "Cannot get interface MTU on 'br77': No such device"),
    "node": ("nodeset='0'", "nodeset='0,5'", "unsupported configuration: NUMA node 5 is unavailable"),
    "pin": ("vcpu='0' cpuset='1'", "vcpu='0' cpuset='77'", "cannot set CPU affinity on process"),
    "mac": (MAC, "52:54:00:00:07:09", "Target network card mac 52:54:00:00:07:09 does not match source"),
    "name": ("<name>g1", "<name>g2", "Target domain name 'g2' does not match source 'g1'"),
    "memory": ("memory='32768'", "memory='30720'", "Size of target NUMA node 0 (30720) doesn't match source (32768)"),
    "pages": (
        "<vcpu ",
        "<memoryBacking><hugepages><page size='2097152' unit='KiB'/></hugepages></memoryBacking><vcpu ",
        "Unable to find any usable hugetlbfs mount for 2097152 KiB",
    ),
}


def refused(hypervisor, call):
    """Move, expect a refusal, and return libvirt's words without the URI before them."""
    with pytest.raises(HypervisorError) as caught:
        hypervisor.live_migration(call)
    return caught.value.message.removeprefix(f"{hypervisor.uri}: ")


def test_what_the_destination_lacks_ends_the_move_and_the_guest_stays(real_lab, real_hosts):
    source, dest = real_hosts
    uuid = start(real_lab.hosts[0], spec_on(real_lab, real_lab.hosts[0]))
    call = call_to(real_lab, source, uuid)
    names = {"{link}": real_lab.hosts[1].data_links[0], "{bridge}": real_lab.hosts[1].bridges[0]}
    for old, new, words in REFUSALS.values():
        xml = call.dest_xml.replace(names.get(old, old), new)
        assert xml != call.dest_xml
        assert words in refused(source, attrs.evolve(call, dest_xml=xml))
        assert source.domain(uuid).state is DomainState.RUNNING
        assert dest.domain(uuid) is None
    nowhere = f"qemu+tcp://{real_lab.hosts[1].ip}:1/system"
    assert "unable to connect to server" in refused(source, attrs.evolve(call, dest_uri=nowhere))
    assert source.completed_job(uuid) is None
    source.live_migration(call)
    assert dest.domain(uuid).state is DomainState.RUNNING


def test_links_that_are_missing_or_down_are_told_before_anything_starts(real_lab, real_hosts):
    host, hypervisor = real_lab.hosts[1], real_hosts[1]
    there = Vif(MAC, VifKind.DIRECT, host.data_links[0])
    assert hypervisor.check_vifs([there, Vif(MAC, VifKind.BRIDGE, host.bridges[0])]) == ()
    missing = hypervisor.check_vifs([Vif(MAC, VifKind.DIRECT, "eth9"), Vif(MAC, VifKind.BRIDGE, "br77")])
    assert [reason.split(" (")[0] for reason in missing] == [
        f"NIC {MAC}: macvtap parent eth9 does not exist",
        f"NIC {MAC}: bridge br77 does not exist",
    ]
    host.exec(f"ip link set {host.data_links[0]} down")
    try:
        down = until("down", lambda: hypervisor.check_vifs([there]), timeout_s=10)
    finally:
        host.exec(f"ip link set {host.data_links[0]} up")
    assert down == (f"NIC {MAC}: macvtap parent {host.data_links[0]} is down",)
    until("up again", lambda: hypervisor.check_vifs([there]) == (), timeout_s=10)


def test_a_secret_is_in_the_migratable_xml_and_in_no_error(real_lab, real_hosts):
    source, _ = real_hosts
    host = real_lab.hosts[0]
    xml = domain_xml(spec_on(real_lab, host)).replace(
        "</devices>", "<graphics type='vnc' port='-1' passwd='hunter2'/></devices>"
    )
    connection = libvirt.open(host.uri)
    uuid = connection.createXML(xml).UUIDString()
    connection.close()
    assert "hunter2" not in source.domain(uuid).xml
    assert "hunter2" in source.domain_xml(uuid, XmlKind.MIGRATABLE)
    call = call_to(real_lab, source, uuid)
    assert "hunter2" not in repr(call)
    broken = attrs.evolve(call, dest_xml=call.dest_xml.replace("<name>g1", "<name>hunter2"))
    with pytest.raises(HypervisorError, match=r"\*\*\*") as caught:
        source.live_migration(broken)
    assert "hunter2" not in repr(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_paused_guest_is_resumed_and_a_running_one_left_alone(real_lab, real_hosts):
    host, hypervisor = real_lab.hosts[0], real_hosts[0]
    uuid = start(host, spec_on(real_lab, host))
    connection = libvirt.open(host.uri)
    connection.lookupByUUIDString(uuid).suspend()
    connection.close()
    assert (hypervisor.domain(uuid).state, hypervisor.domain(uuid).state_reason) == (DomainState.PAUSED, "user")
    hypervisor.resume(uuid)
    hypervisor.resume(uuid)
    assert (hypervisor.domain(uuid).state, hypervisor.domain(uuid).state_reason) == (DomainState.RUNNING, "unpaused")
    with pytest.raises(NotFound):
        hypervisor.resume("11111111-2222-3333-4444-555555555555")


def test_a_libvirtd_that_is_stopped_is_given_up_after_the_limit_and_asked_again_when_it_goes_on(real_lab):
    """Stopped whole, keep-alive would tell after 25 s; with a hung worker nothing would: the limit of a call does."""
    host = real_lab.hosts[0]
    with LibvirtHypervisor(host.uri, call_timeout_s=2.0) as hypervisor:
        assert hypervisor.facts().uuid
        host.exec("kill -STOP $(cat /run/libvirtd.pid)")
        try:
            started = time.monotonic()
            with pytest.raises(HostUnreachable, match=r"no answer to free_pages within 2 s"):
                hypervisor.free_pages()
            assert time.monotonic() - started < 10
        finally:
            host.exec("kill -CONT $(cat /run/libvirtd.pid)")
        assert hypervisor.free_pages()
