"""The engine on two real libvirtds in namespaces: a move, a controller killed in the middle of the job, an abort."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import libvirt
import pytest

from labs import clear_guests
from numaferry import virt
from numaferry.audit import update_available_resource
from numaferry.errors import MigrationFailed
from numaferry.lab.guests import GuestCell, GuestSpec, MacvtapNic, SerialWatch, domain_xml, put_in_share
from numaferry.ledger import open_ledger
from numaferry.migration.engine import MigrationEngine
from numaferry.model import CpuSet, HostConfig, Instance, MigrationPolicy, MigrationStatus, Ownership, XmlKind
from numaferry.request import parse_domain
from numaferry.request.adoption import adopt

if TYPE_CHECKING:
    from numaferry.lab import Lab

pytestmark = pytest.mark.lab

SLOW = MigrationPolicy(bandwidth_mib_s=4)
MAC = "52:54:00:00:0a:01"

#: A controller of its own process: drives migration 1 of the ledger whose path is given.
CONTROLLER = """
import sys
from numaferry import virt
from numaferry.ledger import open_ledger
from numaferry.migration.engine import MigrationEngine
ledger = open_ledger(sys.argv[1])
MigrationEngine(ledger, lambda record: virt.connect(record.uri), lambda host: None).drive(1)
"""


@pytest.fixture(scope="module")
def lab(namespaces_lab) -> Lab:
    """Hosts alpha and beta; both use the CPUs of this machine."""
    return namespaces_lab


class Site:
    """The lab with a ledger that has confirmed it; `db1` runs on alpha and is adopted."""

    def __init__(self, lab, directory, *, persistent=True):
        self.lab, self.path = lab, str(directory / "ledger.sqlite")
        self.ledger = open_ledger(self.path)
        self.hosts = {host.name: virt.connect(host.uri) for host in lab.hosts}
        self.progress = []
        for host in lab.hosts:
            config = HostConfig(
                cpu_dedicated_set=self.hosts[host.name].facts().topology.cpus,
                reserved_host_memory_mb=64,
                physical_networks=(("physnet0", host.data_links[0]),),
                migration_address=host.ip,
            )
            self.ledger.add_host(host.name, self.hosts[host.name].facts(), config, confirmed=True)
        self.uuid = self.start(lab.hosts[0], persistent=persistent)
        self.adopt()

    def start(self, host, *, persistent):
        serial = host.share / "db1.serial"
        self.watch = SerialWatch.of_new(self.lab.share / "db1.serial")
        spec = GuestSpec(
            name="db1",
            image=put_in_share(self.lab, "tiny"),
            serial=serial,
            cells=(GuestCell("0", 48, "0"),),
            vcpu_pins={0: "0"},
            emulator_pin="0",
            nics=(MacvtapNic(host.data_links[0], MAC),),
        )
        connection = libvirt.open(host.uri)
        if persistent:
            domain = connection.defineXML(domain_xml(spec))
            domain.create()
        else:
            domain = connection.createXML(domain_xml(spec))
        uuid = domain.UUIDString()
        connection.close()
        self.watch.until_more()
        return uuid

    def adopt(self):
        record = self.ledger.host("alpha")
        needs = parse_domain(self.hosts["alpha"].domain(self.uuid).xml)
        found = adopt(needs, record.config.cpu_dedicated_set, record.facts.topology)
        assert found.flavor is not None, found
        self.ledger.claim_instance(
            Instance(self.uuid, "db1", "alpha", found.flavor, found.request, found.numa_topology, vifs=needs.vifs)
        )

    def engine(self, on_progress=None, **more):
        return MigrationEngine(
            self.ledger,
            lambda record: virt.connect(record.uri),
            lambda host: update_available_resource(self.ledger, host, self.hosts[host]),
            on_progress or (lambda migration, job: self.progress.append((migration, job))),
            **{"poll_s": 0.1, "settle_s": 0.3, **more},
        )

    def said(self):
        return [event.sentence for event in self.ledger.events(migration=1)]

    def runs_only_on(self, name):
        """Assert where the guest runs, that it counts on, and that it holds one claim, there."""
        seen = {host: hypervisor.domain(self.uuid) for host, hypervisor in self.hosts.items()}
        active = [host for host, domain in seen.items() if domain is not None and domain.state.active]
        assert active == [name], "\n".join(self.said())
        assert self.watch.until_more().intact, self.watch.report
        holders = [host for host in self.hosts for one in self.ledger.view(host).holdings]
        assert holders == [name]
        assert self.ledger.instance("db1").host == name

    def close(self):
        for hypervisor in self.hosts.values():
            hypervisor.close()
        clear_guests(self.lab)
        self.ledger.close()


@pytest.fixture
def site(lab, tmp_path, request):
    made = Site(lab, tmp_path, persistent=getattr(request, "param", True))
    yield made
    made.close()


def test_a_real_guest_moves_with_its_promise_kept(site):
    engine = site.engine()
    migration = engine.start(site.ledger.instance("db1"), "beta")
    assert engine.drive(migration.id).status is MigrationStatus.COMPLETED, site.said()
    site.runs_only_on("beta")
    beta, [claim] = site.hosts["beta"], site.ledger.view("beta").holdings
    assert beta.domain(site.uuid).ownership == Ownership(site.ledger.ledger_id, claim.claim_id)
    [(vcpu, cpu)] = site.ledger.instance("db1").numa_topology.cpu_pinning
    assert dict(beta.thread_masks(site.uuid).vcpus) == {vcpu: CpuSet.of([cpu])}
    stored = parse_domain(beta.domain_xml(site.uuid, XmlKind.INACTIVE))
    assert stored.vcpupins == ((vcpu, CpuSet.of([cpu])),)
    assert stored.vifs[0].source_dev == site.lab.hosts[1].data_links[0]
    said = site.said()
    [read] = [sentence for sentence in said if sentence.startswith("read back")]
    assert read.startswith("read back on beta: 1 verified, 0 disagrees, 2 not verifiable"), read
    assert [sentence for sentence in said if "MiB sent in" in sentence]
    assert not [sentence for sentence in said if "did not work" in sentence], said


@pytest.mark.parametrize("site", [False], indirect=True, ids=["transient"])
def test_a_transient_guest_comes_back_too_and_stays_transient(site):
    engine = site.engine()
    for dest in ("beta", "alpha"):
        engine.drive(engine.start(site.ledger.instance("db1"), dest).id)
        site.runs_only_on(dest)
        assert not site.hosts[dest].domain(site.uuid).persistent


def until_half_way(site, timeout_s=60):
    """Wait until some but not all of the memory was processed; returns the job's figures."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        job = site.hosts["alpha"].job(site.uuid)
        if job is not None and job.memory_processed_bytes > 0 and job.memory_remaining_bytes > 4 << 20:
            return job
        time.sleep(0.02)
    pytest.fail(f"no job was seen half-way: {site.said()}")


def test_a_controller_killed_in_the_middle_of_the_job_is_followed_by_one_that_adopts_it(site):
    site.engine().start(site.ledger.instance("db1"), "beta", SLOW, handed_over=True)
    with subprocess.Popen([sys.executable, "-c", CONTROLLER, site.path]) as first:
        job = until_half_way(site)
        first.send_signal(signal.SIGKILL)
        assert first.wait(timeout=30) == -signal.SIGKILL
    assert site.hosts["alpha"].job(site.uuid) is not None, "the job goes on without its controller"
    assert job.memory_processed_bytes < job.memory_total_bytes
    ended = site.engine().recover(1)
    assert ended.status is MigrationStatus.COMPLETED, site.said()
    [adopted] = [sentence for sentence in site.said() if sentence.startswith("adopted")]
    assert "reports a running job" in adopted
    site.runs_only_on("beta")


def test_an_abort_leaves_the_guest_on_the_source(site):
    engine = site.engine()
    engine.start(site.ledger.instance("db1"), "beta", SLOW)
    ended = []
    driver = threading.Thread(target=lambda: ended.append(engine.drive(1)))
    driver.start()
    until_half_way(site)
    site.engine().abort(1)
    driver.join(timeout=60)
    assert [one.status for one in ended] == [MigrationStatus.CANCELLED], site.said()
    site.runs_only_on("alpha")
    assert site.hosts["beta"].domain(site.uuid) is None


def test_a_destination_that_can_t_start_the_guest_leaves_it_on_the_source(site):
    """A link that goes between the last check and the job is found by libvirt only when the guest arrives."""
    link = site.lab.hosts[1].data_links[0]

    def link_goes(migration, _job):
        if migration.step == "live_migration":
            site.lab.hosts[1].exec(f"ip link set {link} down; ip link set {link} name gone0")

    engine = site.engine(on_progress=link_goes)
    engine.start(site.ledger.instance("db1"), "beta")
    try:
        with pytest.raises(MigrationFailed, match="the guest is on alpha"):
            engine.drive(1)
    finally:
        site.lab.hosts[1].exec(f"ip link set gone0 name {link}; ip link set {link} up")
    site.runs_only_on("alpha")
    assert site.ledger.migration(1).status is MigrationStatus.FAILED
