"""The read-only checks: every reason at once, and what is not known is said and does not refuse."""

import attrs
import pytest

from numaferry.errors import CheckFailed, Conflict, NotManaged
from numaferry.migration.checks import (
    DestView,
    SourceView,
    check_can_live_migrate_destination,
    check_can_live_migrate_source,
    failures,
    refuse,
)
from numaferry.migration.devices import RULES, check_devices
from numaferry.migration.outcome import Check, Outcome
from numaferry.migration.start_checks import StartAsked
from numaferry.model import (
    CpuSet,
    DomainSeen,
    DomainState,
    Flavor,
    HostCell,
    HostFacts,
    HostTopology,
    Instance,
    InstanceCell,
    InstanceNumaTopology,
    JobInfo,
    NumaRequest,
    Ownership,
    PagePool,
    StartNeeds,
)

GUEST = Instance("u-1", "db1", "alpha", Flavor("f", 1, 64), NumaRequest(1, 65536))
PLAIN = "<domain type='kvm'><devices/></domain>"
TOPOLOGY = InstanceNumaTopology(
    (InstanceCell(0, CpuSet.of([0]), CpuSet.of([0]), 65536, 2048, host_cell=1, cpu_pinning=((0, 2),)),)
)


def domain(state="running", reason="booted", xml=PLAIN, **more):
    return DomainSeen("u-1", "db1", DomainState(state), reason, persistent=True, xml=xml, **more)


def facts(uuid="h-2", **more):
    cells = tuple(
        HostCell(number, CpuSet.of([2 * number, 2 * number + 1]), (), 1 << 20, (PagePool(2048, 128, 128),))
        for number in range(2)
    )
    values = {"libvirt_version": 9_000_000, "hypervisor_version": 7_002_000, **more}
    return HostFacts("beta", uuid, "sim://f/beta", HostTopology(cells), **values)


def dest(domains=(), free=128, links=(), **more):
    return DestView("beta", facts(**more), tuple(domains), {0: {2048: 128}, 1: {2048: free}}, tuple(links))


def failed_at_source(seen, job=None, *, force=False):
    checks = check_can_live_migrate_source(SourceView("alpha", seen, job), GUEST, "ledger-1", force=force)
    return {check.name for check in failures(checks)}


def failed_at_dest(view, topology=TOPOLOGY, domain_type="kvm"):
    checks = check_can_live_migrate_destination(
        view, GUEST, facts("h-1"), StartAsked(StartNeeds(domain_type)), topology
    )
    return {check.name for check in failures(checks)}


def test_a_guest_with_snapshots_is_refused_as_libvirt_would_and_one_that_nobody_can_ask_for_is_not():
    assert failed_at_source(domain(snapshots=2)) == {"snapshots"}
    assert failed_at_source(domain(snapshots=0)) == failed_at_source(domain(snapshots=None)) == set()


def test_a_running_guest_of_ours_passes():
    assert failed_at_source(domain()) == set()
    assert failed_at_source(domain(ownership=Ownership("ledger-1", "claim-1"))) == set()


@pytest.mark.parametrize(
    ("seen", "job", "name"),
    [
        (None, None, "running"),
        (domain("paused", "user"), None, "running"),
        (domain("shutoff", "shutdown"), None, "running"),
        (domain(), JobInfo(time_elapsed_ms=7), "job"),
        (domain(manager="nova"), None, "manager"),
        (domain(ownership=Ownership("ledger-2", "c")), None, "ownership"),
        (domain(xml="<domain><devices><hostdev/></devices></domain>"), None, "hostdev"),
    ],
)
def test_what_refuses_at_the_source(seen, job, name):
    assert failed_at_source(seen, job) == {name}


def test_a_guest_of_nova_moves_only_by_force_and_it_is_said():
    checks = check_can_live_migrate_source(
        SourceView("alpha", domain(manager="nova"), None), GUEST, "ledger-1", force=True
    )
    assert not failures(checks)
    assert next(check for check in checks if check.name == "manager").outcome is Outcome.UNKNOWN


def test_all_reasons_come_at_once():
    bad = domain("paused", "user", manager="nova", ownership=Ownership("ledger-2", "c"))
    assert failed_at_source(bad, JobInfo()) == {"running", "job", "manager", "ownership"}


def test_a_destination_with_room_passes():
    assert failed_at_dest(dest()) == set()
    assert failed_at_dest(dest(free=0), topology=None) == set()


@pytest.mark.parametrize(
    ("view", "name"),
    [
        (dest(uuid="h-1"), "another-host"),
        (dest([domain()]), "not-there"),
        (dest([attrs.evolve(domain(), uuid="u-9")]), "not-there"),
        (dest(libvirt_version=8_010_000), "version-libvirt"),
        (dest(hypervisor_version=7_001_000), "version-qemu"),
        (dest(domain_types=("qemu",)), "domain-type"),
        (dest(links=["no device ens4f0"]), "links"),
        (dest(free=31), "pages"),
    ],
)
def test_what_refuses_at_the_destination(view, name):
    assert failed_at_dest(view) == {name}


def test_a_claim_on_cells_and_cpus_that_have_gone_is_refused():
    moved = InstanceNumaTopology((attrs.evolve(TOPOLOGY.cells[0], host_cell=3, cpu_pinning=((0, 77),)),))
    assert "topology" in failed_at_dest(dest(), moved)


def test_pages_are_counted_per_cell_of_the_claim_in_a_sentence_with_numbers():
    checks = check_can_live_migrate_destination(dest(free=31), GUEST, facts("h-1"), StartAsked(StartNeeds()), TOPOLOGY)
    [check] = failures(checks)
    assert check.reason == "cell 1 of beta has 31 free pages of 2048 KiB, the claim needs 32"


@pytest.mark.parametrize(
    ("names", "error"),
    [
        (["running", "ownership", "manager"], Conflict),
        (["running", "manager"], NotManaged),
        (["running", "links"], CheckFailed),
    ],
)
def test_the_error_says_whose_guest_it_is_and_quotes_every_reason(names, error):
    checks = [Check(name, Outcome.FAILS, f"because of {name}") for name in names]
    with pytest.raises(error) as caught:
        refuse([*checks, Check("machine", Outcome.UNKNOWN, "who knows")], "db1 can't move")
    assert all(f"because of {name}" in caught.value.message for name in names)
    assert "who knows" not in caught.value.message


def test_unknown_refuses_nothing():
    refuse([Check("machine", Outcome.UNKNOWN, "who knows")], "db1 can't move")


# One guest per rule, so that a rule that no longer matches is noticed.
TOUCHED = {
    "hostdev": "<devices><hostdev/></devices>",
    "interface-hostdev": "<devices><interface type='hostdev'/></devices>",
    "filesystem": "<devices><filesystem><driver type='virtiofs'/></filesystem></devices>",
    "shmem": "<devices><shmem/></devices>",
    "nvdimm": "<devices><memory model='nvdimm'/></devices>",
    "dimm-slot": "<devices><memory model='dimm'/></devices>",
    "tpm": "<devices><tpm><backend type='passthrough'/></tpm></devices>",
    "tpm-emulator": "<devices><tpm><backend type='emulator'/></tpm></devices>",
    "launch-security": "<launchSecurity type='sev'/>",
    "transient-disk": "<devices><disk type='network'><source/><transient/></disk></devices>",
    "invtsc": "<cpu><feature name='invtsc' policy='require'/></cpu>",
    "block-job": "<devices><disk type='network'><source/><mirror type='file' job='copy'/></disk></devices>",
    "slirp": "<devices><interface type='user'/></devices>",
    "serial-log": "<devices><serial type='file'/></devices>",
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_each_rule_of_the_device_table_has_a_guest_that_it_touches(rule):
    found = {check.name: check.outcome for check in check_devices(f"<domain>{TOUCHED[rule.name]}</domain>")}
    assert found == {rule.name: rule.outcome}
