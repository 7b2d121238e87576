"""How fast a guest writes, as its host measures it."""

import ast
from pathlib import Path

import pytest

import numaferry.virt.libvirt.dirtying
from numaferry.errors import NotFound
from numaferry.lab.guests import GuestCell
from numaferry.model import DirtySample, DomainState
from numaferry.virt.simulated import Fleet
from real_moves import spec_on, start, until

GUEST = """<domain type='kvm'><name>g</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os><devices/></domain>"""
MIB = 1 << 20


def test_a_measurement_by_dirty_bitmap_ended_the_guest_so_only_pages_are_sampled():
    """QEMU 7.2 without KVM ends itself when it is asked for mode dirty-bitmap (virDomainStartDirtyRateCalc)."""
    tree = ast.parse(Path(numaferry.virt.libvirt.dirtying.__file__).read_text(encoding="utf-8"))
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "startDirtyRateCalc"
    ]
    assert [ast.unparse(call.args[1]) for call in calls] == ["libvirt.VIR_DOMAIN_DIRTYRATE_MODE_PAGE_SAMPLING"]


def test_the_simulated_fleet_measures_a_line_up_to_all_of_the_memory():
    fleet = Fleet("measured")
    fleet.add_host("a", "1 cell x 2 cores x 1 thread, 1G")
    uuid = fleet.start_guest("a", GUEST, dirty_mib_s=20)
    before = fleet.now_s
    found = fleet.hypervisor("a").look_at_memory(uuid, (1, 4))
    assert found.samples == (DirtySample(1.0, 20 * MIB), DirtySample(4.0, 64 * MIB))
    assert fleet.now_s - before >= 5
    with pytest.raises(NotFound):
        fleet.hypervisor("a").look_at_memory("no-such-guest", (1,))
    fleet.close()


@pytest.mark.lab
def test_qemu_measures_a_guest_that_goes_round_in_part_of_its_memory(real_lab, real_hosts):
    """512 pages of each GiB are sampled, so that of 64 MiB it sees about 32: the bounds are four deviations wide."""
    uuid = start(
        real_lab.hosts[0],
        spec_on(
            real_lab,
            real_lab.hosts[0],
            nics=(),
            vcpus=1,
            cells=(GuestCell("0", 256, "0"),),
            vcpu_pins={0: "0"},
            iothreads=0,
            iothread_pins={},
            dirty_mib=8,
            command_line="hot=64 check=1",
        ),
    )
    source = real_hosts[0]
    until("all of its memory", lambda: source.look_at_memory(uuid, ()).resident_bytes > 256 * MIB)
    found = source.look_at_memory(uuid, (2,))
    assert 20 * MIB < found.samples[0].dirtied_bytes < 130 * MIB
    assert source.domain(uuid).state is DomainState.RUNNING
