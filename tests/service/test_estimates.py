"""`migrate --estimate` on a simulated fleet: what is measured, what is said of it, and what a policy does with it."""

import json

import attrs
import pytest

from numaferry.cli.jsonform import dumps
from numaferry.errors import CheckFailed, Conflict, HypervisorError, MigrationFailed
from numaferry.ledger import open_ledger
from numaferry.model import (
    CpuSet,
    DirtySample,
    HostConfig,
    MemoryLook,
    MigrateCall,
    MigrationPolicy,
    PolicyWish,
    XmlKind,
)
from numaferry.service import Ferry
from numaferry.service.estimates import judge
from numaferry.virt.simulated import Fleet
from numaferry.virt.simulated.hypervisor import SimulatedHypervisor
from numaferry.virt.simulated.job import MigrationJob

SETS = HostConfig(cpu_dedicated_set=CpuSet.parse("2-7"), cpu_shared_set=CpuSet.parse("0-1"), reserved_host_memory_mb=64)
GUEST = """<domain type='kvm'><name>db1</name><memory unit='MiB'>512</memory><vcpu placement='static'>1</vcpu>
<cputune><vcpupin vcpu='0' cpuset='2'/></cputune><numatune><memory mode='strict' nodeset='0'/></numatune>
<os><type arch='x86_64' machine='q35'>hvm</type></os><devices/></domain>"""
MIB = 1 << 20


class Told:
    """What a command would have been told."""

    def __init__(self):
        self.warnings = []

    def warned(self, sentence):
        self.warnings.append(sentence)

    def started(self, migration):
        pass

    def progress(self, migration, progress):
        pass


@pytest.fixture
def place(tmp_path):
    """Two hosts, and a guest on alpha that writes 64 MiB/s everywhere."""
    fleet = Fleet("guessed")
    ledger = open_ledger(str(tmp_path / "ledger.sqlite"))
    ferry = Ferry(ledger, lambda uri: fleet.hypervisor(uri.rpartition("/")[2]))
    for name in ("alpha", "beta"):
        fleet.add_host(name, "1 cell x 8 cores x 1 thread, 4G")
        ferry.host_add(name, fleet.uri(name), config=SETS)
    uuid = fleet.start_guest("alpha", GUEST, dirty_mib_s=64)
    ferry.adopt(everything=True)
    yield fleet, ledger, ferry, uuid
    ferry.close()
    fleet.close()


def wish(**said):
    return PolicyWish.of(**said)


def test_an_estimate_tells_how_long_it_takes_and_touches_nothing(place):
    fleet, ledger, ferry, uuid = place
    found = ferry.estimate("db1", "beta", policy=wish(bandwidth_mib_s=256))
    assert (found.source, found.dest, found.dirty_bps) == ("alpha", "beta", 64 * MIB)
    assert found.converges is True
    assert found.naive_s == pytest.approx(2.0)
    assert found.duration_s > found.naive_s
    assert ledger.migrations() == ()
    assert fleet.running_on(uuid) == ("alpha",)


def test_what_was_estimated_is_about_what_happens(place):
    fleet, _, ferry, uuid = place
    found = ferry.estimate("db1", "beta", policy=wish(bandwidth_mib_s=256))
    ferry.migrate("db1", "beta", policy=wish(bandwidth_mib_s=256))
    took_s = fleet.hypervisor("beta").completed_job(uuid).time_elapsed_ms / 1000
    assert found.duration_s == pytest.approx(took_s, rel=0.3)


def test_one_that_would_not_end_is_told_with_what_would_end_it(place):
    *_, ferry, _ = place
    found = ferry.estimate("db1", "beta", policy=wish(bandwidth_mib_s=32))
    assert (found.converges, found.ending, found.duration_s) == (False, "never", None)
    assert "writes 64 MiB/s" in found.sentence
    assert any("--auto-converge" in one for one in found.remedies)
    assert any("128 MiB/s" in one for one in found.remedies)


def test_a_policy_that_refuses_it_claims_nothing(place):
    _, ledger, ferry, _ = place
    with pytest.raises(CheckFailed, match="would never arrive") as caught:
        ferry.migrate("db1", "beta", policy=wish(bandwidth_mib_s=32, on_no_convergence="refuse"))
    assert "--auto-converge" in caught.value.hint
    assert ledger.migrations() == ()


def test_a_policy_that_warns_tells_it_and_goes_on(place):
    _, ledger, ferry, _ = place
    told = Told()
    with pytest.raises(MigrationFailed):
        ferry.migrate("db1", "beta", policy=wish(bandwidth_mib_s=32, on_no_convergence="warn"), watch=told)
    assert len(told.warnings) == 1
    assert "would never arrive" in told.warnings[0]
    assert len(ledger.migrations()) == 1


def test_one_that_ends_by_itself_is_not_warned_of(place):
    *_, ferry, _ = place
    told = Told()
    ferry.migrate("db1", "beta", policy=wish(bandwidth_mib_s=256, on_no_convergence="refuse"), watch=told)
    assert told.warnings == []


def test_a_host_that_can_not_measure_refused_every_move_that_was_only_to_be_warned_of(place, monkeypatch):
    """Libvirt before 7.2 has no virDomainStartDirtyRateCalc."""
    *_, ferry, _ = place

    def refuses(*_words):
        raise HypervisorError("this function is not supported by the connection driver")

    monkeypatch.setattr(SimulatedHypervisor, "look_at_memory", refuses)
    told = Told()
    ferry.migrate("db1", "beta", policy=wish(bandwidth_mib_s=256, on_no_convergence="refuse"), watch=told)
    assert "can't be known" in told.warnings[0]


def test_a_move_over_other_connections_says_nothing_of_the_way(place):
    """Eight connections carry several times what one does, and more than one that is encrypted."""
    fleet, ledger, ferry, _ = place
    fleet.dirty_mib_s = dict.fromkeys(fleet.dirty_mib_s, 0)
    ferry.migrate("db1", "beta", policy=wish(parallel_connections=8))
    assert ledger.observed_bps("alpha", "beta", MigrationPolicy()) == 0
    assert ledger.observed_bps("alpha", "beta", MigrationPolicy(parallel_connections=8)) > 0


def test_without_a_limit_the_bandwidth_is_what_earlier_moves_that_way_reached(place):
    fleet, _, ferry, _ = place
    fleet.dirty_mib_s = dict.fromkeys(fleet.dirty_mib_s, 0)
    unknown = ferry.estimate("db1")
    assert (unknown.bandwidth_bps, unknown.converges) == (None, None)
    assert "can't be known without a bandwidth" in unknown.sentence
    ferry.migrate("db1", "beta")
    ferry.migrate("db1", "alpha")
    known = ferry.estimate("db1", "beta")
    assert known.bandwidth_bps == pytest.approx(fleet.bandwidth_mib_s * MIB, rel=0.5)
    assert "earlier migrations from alpha to beta" in known.bandwidth_basis


def test_a_move_that_its_limit_held_back_says_nothing_of_the_way(place):
    fleet, _, ferry, _ = place
    fleet.dirty_mib_s = dict.fromkeys(fleet.dirty_mib_s, 0)
    ferry.migrate("db1", "beta", policy=wish(bandwidth_mib_s=100))
    ferry.migrate("db1", "alpha", policy=wish(bandwidth_mib_s=100))
    assert ferry.estimate("db1", "beta").bandwidth_bps is None


def test_a_guest_under_a_job_is_not_measured(place):
    """The measurement would see the job, and slow it (KubeVirt 17504)."""
    fleet, _, ferry, uuid = place
    fleet.automatic = False
    host = fleet.hypervisor("alpha")
    call = MigrateCall(
        uuid=uuid, dest_uri=fleet.uri("beta"), migrate_uri="", persistent_xml=None, policy=MigrationPolicy(),
        dest_xml=host.domain_xml(uuid, XmlKind.MIGRATABLE),
    )  # fmt: skip
    MigrationJob.start(fleet, fleet.hosts["alpha"], call)
    with pytest.raises(Conflict, match="a job runs on db1"):
        ferry.estimate("db1")


def test_memory_in_blocks_that_qemu_does_not_measure_is_not_called_quiet(place):
    _, ledger, *_ = place
    instance = ledger.instance("db1")
    small = attrs.evolve(instance, request=attrs.evolve(instance.request, memory_kib=64 << 10, cells=()))
    found = judge(small, "", MigrationPolicy(bandwidth_mib_s=10), MemoryLook(0, (DirtySample(1.0, 0),)), 0)
    assert found.converges is None
    assert "can't be known" in found.sentence


def test_huge_pages_are_sent_though_they_are_not_resident(place):
    _, ledger, *_ = place
    instance = ledger.instance("db1")
    cell = attrs.evolve(instance.numa_topology.cells[0], page_size_kib=2048)
    huge = attrs.evolve(instance, numa_topology=attrs.evolve(instance.numa_topology, cells=(cell,)))
    found = judge(huge, "", MigrationPolicy(bandwidth_mib_s=10), MemoryLook(30 * MIB, (DirtySample(1.0, 0),)), 0)
    assert found.to_send_bytes == 512 * MIB


def test_an_estimate_is_json_that_a_script_can_read(place):
    *_, ferry, _ = place
    printed = json.loads(dumps(ferry.estimate("db1", "beta", policy=wish(bandwidth_mib_s=256))))
    assert printed["converges"] is True
    assert printed["ending"] == "switched"
