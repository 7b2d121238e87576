"""What a scan finds wrong, from guests' XML alone."""

import pytest

from numaferry.model import CpuSet
from numaferry.model.notation import parse_topology
from numaferry.request import parse_domain
from numaferry.service.judge import judge, tenant

HOST = parse_topology("2 cells x 2 cores x 2 threads, 1G")


def guest(name, pins=(), *, nodes="", emulator=None, cpuset=""):
    """A guest of len(pins) vCPUs (at least one); pins and emulator are CPU lists, nodes where its memory is bound."""
    vcpupins = "".join(f"<vcpupin vcpu='{vcpu}' cpuset='{pin}'/>" for vcpu, pin in enumerate(pins))
    tune = f"<emulatorpin cpuset='{emulator}'/>" if emulator else ""
    bound = f"<numatune><memory mode='strict' nodeset='{nodes}'/></numatune>" if nodes else ""
    where = f" cpuset='{cpuset}'" if cpuset else ""
    return parse_domain(
        f"<domain type='kvm'><name>{name}</name><uuid>{name}</uuid><memory unit='MiB'>64</memory>"
        f"<vcpu{where}>{max(1, len(pins))}</vcpu><cputune>{vcpupins}{tune}</cputune>{bound}"
        "<os><type>hvm</type></os></domain>"
    )


def found(*guests):
    return {(one.kind, one.guests): one.sentence for one in judge("a", HOST, guests)}


def test_guests_well_apart_are_no_finding():
    assert found(guest("x", ["2", "3"], nodes="0", emulator="0-1"), guest("y", ["4"], nodes="1", emulator="0-1")) == {}


def test_two_guests_on_one_cpu_are_a_double_pin():
    told = found(guest("x", ["2", "3"], emulator="0"), guest("y", ["3", "4"], emulator="0"))
    assert told == {("double-pin", ("x", "y")): "x and y are both pinned to CPU 3"}


def test_vcpus_on_another_cell_than_their_memory_are_misplaced():
    told = found(guest("x", ["4", "5"], nodes="0", emulator="0"))
    assert told == {("misplaced", ("x",)): "x runs on host cell 1 with its memory on 0 (mode strict)"}


@pytest.mark.parametrize(("emulator", "how"), [("2", "may run"), (None, "are not confined and may run")])
def test_emulator_threads_on_anothers_cpus_are_found(emulator, how):
    told = found(guest("x", ["2"], emulator="0"), guest("y", ["4"], emulator=emulator))
    assert told == {("emulator-on-pinned", ("y", "x")): f"emulator threads of y {how} on CPU 2, where x is pinned"}


@pytest.mark.parametrize("web", [guest("web", emulator="0"), guest("web", ["0-7"], emulator="0")])
def test_a_guest_that_floats_over_pinned_cpus_is_found(web):
    told = found(guest("x", ["2"], emulator="0"), guest("y", ["4"], emulator="0"), web)
    assert told == {("floats-over-pinned", ("web", "x", "y")): "web floats over CPUs 2,4, where x, y are pinned"}


def test_a_guest_confined_beside_the_pinned_ones_is_no_finding():
    assert found(guest("x", ["4"], emulator="0"), guest("web", cpuset="0-3")) == {}


def test_a_tenant_tells_pins_from_sets_and_from_floating():
    assert tenant(guest("x", ["2", "3"]), HOST.cpus).pinned == CpuSet.parse("2-3")
    assert tenant(guest("web", cpuset="0-3"), HOST.cpus).confined == CpuSet.parse("0-3")
    assert tenant(guest("web"), HOST.cpus).floating
