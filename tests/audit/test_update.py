"""`update_available_resource` on the simulated fleet: what it refreshes, records, and leaves alone."""

import attrs
import pytest

from numaferry.audit import update_available_resource
from numaferry.ledger import open_ledger
from numaferry.model import CpuSet, HostConfig, Instance, Ownership
from numaferry.request import parse_domain
from numaferry.request.adoption import adopt
from numaferry.virt.simulated import Fleet

CONFIG = HostConfig(cpu_dedicated_set=CpuSet.parse("2-7"), cpu_shared_set=CpuSet.parse("0-1"))


def xml(name, *cpus):
    pins = "".join(f"<vcpupin vcpu='{vcpu}' cpuset='{cpu}'/>" for vcpu, cpu in enumerate(cpus))
    return f"""<domain type='kvm'><name>{name}</name><memory unit='MiB'>64</memory>
<memoryBacking><hugepages><page size='2048' unit='KiB'/></hugepages></memoryBacking>
<vcpu>{max(1, len(cpus))}</vcpu><cputune>{pins}</cputune>
<numatune><memory mode='strict' nodeset='0'/></numatune><devices/></domain>"""


class Place:
    """Two simulated hosts, and a ledger that has confirmed them."""

    def __init__(self, directory):
        self.fleet = Fleet(f"audit-{directory}", seed=1)
        self.ledger = open_ledger(str(directory / "ledger.sqlite"))
        for name in ("alpha", "beta"):
            self.fleet.add_host(name, "1 cell x 4 cores x 2 threads, 2G, 2M:128")
            self.ledger.add_host(name, self.fleet.hypervisor(name).facts(), CONFIG, confirmed=True)

    def audit(self, host="alpha"):
        return update_available_resource(self.ledger, host, self.fleet.hypervisor(host))

    def kinds(self, host="alpha"):
        return [finding.kind for finding in self.audit(host).findings]

    def start(self, name, *cpus, host="alpha", adopted=False):
        uuid = self.fleet.start_guest(host, xml(name, *cpus))
        if adopted:
            needs = parse_domain(self.fleet.hypervisor(host).domain(uuid).xml)
            found = adopt(needs, CONFIG.cpu_dedicated_set, self.ledger.host(host).facts.topology)
            self.ledger.claim_instance(Instance(uuid, name, host, found.flavor, found.request, found.numa_topology))
        return uuid


@pytest.fixture
def place(tmp_path):
    made = Place(tmp_path)
    yield made
    made.ledger.close()
    made.fleet.close()


def test_a_stranger_s_cpus_and_pages_are_closed_to_new_claims_and_opened_again_when_it_ends(place):
    uuid = place.start("noisy", 2, 3)
    result = place.audit()
    assert [finding.kind for finding in result.findings] == ["unclaimed-on-dedicated"]
    assert result.cost_ms > 0
    cell = place.ledger.host_state("alpha").cells[0]
    assert (cell.pinned, cell.pool(2048).free) == (CpuSet.parse("2-3"), 96)
    place.fleet.end_guest("alpha", uuid, "shutdown")
    assert place.kinds() == []
    assert place.ledger.host_state("alpha").cells[0].pool(2048).free == 128


def test_a_managed_guest_is_charged_once(place):
    place.start("db1", 2, 3, adopted=True)
    assert place.kinds() == []
    cell = place.ledger.host_state("alpha").cells[0]
    assert (cell.pinned, cell.pool(2048).free) == (CpuSet.parse("2-3"), 96)
    assert [use.managed for use in place.ledger.observed("alpha")] == [True]


def test_a_mask_set_behind_libvirt_s_back_is_found_and_recorded(place):
    uuid = place.start("db1", 2, 3, adopted=True)
    place.fleet.set_kernel_mask("alpha", uuid, 1, CpuSet.parse("0-7"))
    assert "pins-differ" in place.kinds()
    stored = place.ledger.findings("alpha")
    assert "vCPU 1 on 0-7 instead of 3" in next(one for one in stored if one.kind == "pins-differ").sentence


def test_the_next_audit_replaces_the_findings_of_the_last(place):
    uuid = place.start("noisy", 2, 3)
    place.audit()
    assert len(place.ledger.findings("alpha")) == 1
    place.fleet.end_guest("alpha", uuid, "destroyed")
    place.audit()
    assert place.ledger.findings("alpha") == ()


def test_pages_that_libvirt_does_not_know_about(place):
    place.fleet.hosts["alpha"].taken[0, 2048] = 7
    [finding] = place.audit().findings
    assert finding.kind == "pages-unaccounted"
    assert "7 are used by something that libvirt does not know" in finding.sentence


def test_a_guest_that_was_carried_off_by_hand_is_found_on_both_sides(place):
    uuid = place.start("db1", 2, 3, adopted=True)
    domain = place.fleet.hosts["alpha"].domains.pop(uuid)
    place.fleet.start_guest("beta", domain.live)
    assert place.kinds("beta") == ["unclaimed-on-dedicated"]
    assert place.kinds("alpha") == ["claim-without-domain"]
    assert place.ledger.instance("db1").host == "alpha", "the audit repairs nothing behind anybody's back"


def test_a_guest_seen_on_two_hosts(place):
    uuid = place.start("db1", 2, 3, adopted=True)
    place.audit("alpha")
    place.fleet.start_guest("beta", place.fleet.hosts["alpha"].domains[uuid].live)
    assert "domain-on-two-hosts" in place.kinds("beta")


def test_another_ledger_s_guest_is_named(place):
    uuid = place.start("db9", 2)
    place.fleet.hypervisor("alpha").set_ownership(uuid, Ownership("another", "claim"))
    assert "foreign-ledger" in place.kinds()


def test_a_host_with_other_cells_is_quarantined_and_it_is_said(place):
    host = place.fleet.hosts["alpha"]
    host.topology = attrs.evolve(host.topology, cells=(attrs.evolve(host.topology.cells[0], cpus=CpuSet.parse("0-5")),))
    assert "host-quarantined" in place.kinds()


def test_an_audit_changes_nothing_on_the_host(place):
    place.start("db1", 2, 3, adopted=True)
    before = [domain.xml for domain in place.fleet.hypervisor("alpha").domains()]
    place.audit()
    assert [domain.xml for domain in place.fleet.hypervisor("alpha").domains()] == before
