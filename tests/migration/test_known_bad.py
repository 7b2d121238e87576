"""Versions with known faults are said aloud, and refuse nothing."""

import attrs
import pytest

from numaferry.migration.known_bad import check_versions
from numaferry.migration.outcome import Outcome
from numaferry.model import HostFacts, HostTopology, StartNeeds

SOUND = HostFacts("alpha", "h-1", "sim://f/alpha", HostTopology(()), 9_000_000, 7_002_000)
VMX = StartNeeds(cpu_mode="custom", cpu_features=frozenset({"vmx-apicv-vid"}))
PLAIN = StartNeeds(cpu_mode="custom")


def checked(needs, source, dest):
    hosts = (attrs.evolve(SOUND, hostname=name, libvirt_version=one) for name, one in (("a", source), ("b", dest)))
    return check_versions(needs, *hosts)


def test_versions_without_a_known_fault_are_ok():
    assert [check.outcome for check in check_versions(VMX, SOUND, SOUND)] == [Outcome.OK]


@pytest.mark.parametrize(
    ("needs", "source", "dest", "met"),
    [
        (VMX, 9_000_000, 10_000_000, "libvirt 10.0.0 on b"),
        (VMX, 9_010_000, 10_002_000, "libvirt 9.10.0 on a"),
        (VMX, 9_009_000, 10_003_000, ""),
        (PLAIN, 9_000_000, 10_001_000, ""),
        (PLAIN, 10_002_000, 10_003_000, "libvirt 10.2.0 on a"),
        (PLAIN, 10_001_000, 10_002_000, ""),
        (PLAIN, 8_000_000, 8_008_000, "libvirt 8.8.0 on b"),
    ],
)
def test_a_known_fault_is_told_with_host_version_and_source_and_refuses_nothing(needs, source, dest, met):
    [check] = checked(needs, source, dest)
    assert check.outcome is (Outcome.UNKNOWN if met else Outcome.OK)
    assert met in check.reason
    assert not met or "NEWS" in check.reason
