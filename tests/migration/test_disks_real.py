"""Disks on two real libvirtds in namespaces: copied whole or above a base, refused, undone, and shared by word."""

from __future__ import annotations

import signal
import subprocess
import sys

import attrs
import libvirt
import pytest

from labs import clear_guests
from numaferry import virt
from numaferry.audit import update_available_resource
from numaferry.errors import CheckFailed
from numaferry.lab.guests import GuestCell, GuestSpec, SerialWatch, domain_xml, put_in_share
from numaferry.ledger import open_ledger
from numaferry.migration.engine import MigrationEngine
from numaferry.model import CopyStorage, HostConfig, Instance, MigrationPolicy, MigrationStatus
from numaferry.request import parse_domain
from numaferry.request.adoption import adopt
from real_moves import until

pytestmark = pytest.mark.lab

MIB = 1 << 20
IMAGES = "/var/lib/libvirt/images"
FULL = MigrationPolicy(copy_storage=CopyStorage.FULL)
PATH = f"{IMAGES}/db1.img"
#: Bytes of the patterns in images.
WRITTEN, OVERLAID = 0x5A, 0x33

#: A controller of its own process: drives migration 1 of the ledger whose path is given.
CONTROLLER = """
import sys
from numaferry import virt
from numaferry.ledger import open_ledger
from numaferry.migration.engine import MigrationEngine
ledger = open_ledger(sys.argv[1])
MigrationEngine(ledger, lambda record: virt.connect(record.uri), lambda host: None).drive(1)
"""


class Site:
    """The lab with a pool for `IMAGES` on each host, which every host has for itself, and a ledger."""

    def __init__(self, lab, directory):
        self.lab = lab
        self.alpha, self.beta = lab.hosts
        self.path = str(directory / "ledger.sqlite")
        self.ledger = open_ledger(self.path)
        self.hosts = {host.name: virt.connect(host.uri) for host in lab.hosts}
        self.progress = []
        for host in lab.hosts:
            self.run(host, f"mkdir -p {IMAGES} && rm -f {IMAGES}/*")
            self.pool(host, "images", IMAGES)
            config = HostConfig(
                cpu_dedicated_set=self.hosts[host.name].facts().topology.cpus,
                reserved_host_memory_mb=64,
                migration_address=host.ip,
            )
            self.ledger.add_host(host.name, self.hosts[host.name].facts(), config, confirmed=True)

    @staticmethod
    def pool(host, name, target):
        connection = libvirt.open(host.uri)
        connection.storagePoolCreateXML(
            f"<pool type='dir'><name>{name}</name><target><path>{target}</path></target></pool>"
        )
        connection.close()

    @staticmethod
    def run(host, command):
        done = host.exec(command)
        assert done.exit_code == 0, f"{host.name}: {command}: {done.output}"
        return done.output

    def image(self, path, *, kind="raw", base=""):
        """Make an image of 8 MiB on alpha; the first megabytes bear a pattern, in an overlay the second one."""
        below = f"-b {base} -F raw" if base else ""
        byte, place = (OVERLAID, "1M 1M") if base else (WRITTEN, "0 7M")
        self.run(self.alpha, f"qemu-img create -q -f {kind} {below} {path} 8M")
        self.run(self.alpha, f"qemu-io -f {kind} -c 'write -P {byte} {place}' {path}")

    def holds(self, host, path, kind, byte, place):
        """Tell whether an image bears this byte in a place, read beside the guest that has it open."""
        done = host.exec(f"qemu-io -U -r -f {kind} -c 'read -P {byte} {place}' {path}")
        return done.exit_code == 0 and "failed" not in done.output

    def start(self, path, *, kind="raw", cache="none"):
        """Start db1 on alpha with this disk and adopt it."""
        self.watch = SerialWatch.of_new(self.lab.share / "db1.serial")
        spec = GuestSpec(
            name="db1",
            image=put_in_share(self.lab, "tiny"),
            serial=self.alpha.share / "db1.serial",
            cells=(GuestCell("0", 48, "0"),),
            vcpu_pins={0: "0"},
            emulator_pin="0",
        )
        disk = (
            f"<disk type='file' device='disk'><driver name='qemu' type='{kind}' cache='{cache}'/>"
            f"<source file='{path}'/><target dev='vda' bus='virtio'/></disk>"
        )
        connection = libvirt.open(self.alpha.uri)
        domain = connection.defineXML(domain_xml(spec).replace("</devices>", f"{disk}</devices>"))
        domain.create()
        self.uuid = domain.UUIDString()
        connection.close()
        self.watch.until_more()
        record = self.ledger.host("alpha")
        needs = parse_domain(self.hosts["alpha"].domain(self.uuid).xml)
        found = adopt(needs, record.config.cpu_dedicated_set, record.facts.topology)
        self.ledger.claim_instance(
            Instance(self.uuid, "db1", "alpha", found.flavor, found.request, found.numa_topology, vifs=needs.vifs)
        )

    def engine(self, on_progress=None):
        return MigrationEngine(
            self.ledger,
            lambda record: virt.connect(record.uri),
            lambda host: update_available_resource(self.ledger, host, self.hosts[host]),
            on_progress or (lambda migration, job: self.progress.append((migration, job))),
            poll_s=0.1,
            settle_s=0.3,
        )

    def move(self, policy, on_progress=None):
        engine = self.engine(on_progress)
        return engine.drive(engine.start(self.ledger.instance("db1"), "beta", policy).id)

    def said(self):
        return [event.sentence for event in self.ledger.events(migration=1)]

    def listed(self, host):
        """The files in the directory of images on a host."""
        return self.run(host, f"ls {IMAGES}").split()

    def runs_only_on(self, name):
        seen = {host: hypervisor.domain(self.uuid) for host, hypervisor in self.hosts.items()}
        assert [host for host, domain in seen.items() if domain and domain.state.active] == [name], self.said()
        assert self.watch.until_more().intact, self.watch.report
        assert self.ledger.instance("db1").host == name

    def close(self):
        for hypervisor in self.hosts.values():
            hypervisor.close()
        clear_guests(self.lab)
        for host in self.lab.hosts:
            connection = libvirt.open(host.uri)
            for pool in connection.listAllStoragePools():
                pool.destroy()
            connection.close()
        self.ledger.close()


@pytest.fixture
def site(namespaces_lab, tmp_path):
    made = Site(namespaces_lab, tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_a_local_disk_is_really_copied_and_the_guest_runs_on(site, kind):
    site.image(PATH, kind=kind)
    site.start(PATH, kind=kind)
    with pytest.raises(CheckFailed, match="nothing proves that beta sees the same"):
        site.move(MigrationPolicy())
    assert site.move(FULL).status is MigrationStatus.COMPLETED, site.said()
    site.runs_only_on("beta")
    for host in (site.alpha, site.beta):
        assert site.holds(host, PATH, kind, WRITTEN, "0 7M"), f"{host.name}: {site.said()}"
    assert [one for one in site.said() if one.startswith("the disk images on alpha stay")]
    assert max(job.disk_total_bytes for _, job in site.progress if job is not None) == 8 * MIB


def test_a_copied_disk_stays_after_the_next_start_of_the_guest(site):
    """The persistent configuration that the guest has on beta names the image that is there."""
    site.image(PATH)
    site.start(PATH)
    site.move(FULL)
    connection = libvirt.open(site.beta.uri)
    domain = connection.lookupByUUIDString(site.uuid)
    domain.destroy()
    domain.create()
    assert domain.isActive()
    connection.close()


def test_a_whole_copy_of_an_overlay_needs_no_base_on_the_destination(site):
    base = f"{IMAGES}/base.img"
    site.image(base)
    site.image(PATH, kind="qcow2", base=base)
    site.start(PATH, kind="qcow2")
    assert site.move(FULL).status is MigrationStatus.COMPLETED, site.said()
    site.runs_only_on("beta")
    assert site.listed(site.beta) == ["db1.img"]
    assert site.holds(site.beta, PATH, "qcow2", OVERLAID, "1M 1M")
    assert site.holds(site.beta, PATH, "qcow2", WRITTEN, "2M 5M")


def test_an_incremental_copy_is_made_above_the_base_that_both_hosts_see(site):
    base = str(site.alpha.share / "base.img")
    site.pool(site.beta, "bases", str(site.alpha.share))
    site.image(base)
    site.image(PATH, kind="qcow2", base=base)
    site.start(PATH, kind="qcow2")
    policy = MigrationPolicy(copy_storage=CopyStorage.INCREMENTAL)
    with pytest.raises(CheckFailed, match="nothing proves that /run/numaferry/share/base"):
        site.move(policy)
    done = site.move(attrs.evolve(policy, shared_storage=True))
    assert done.status is MigrationStatus.COMPLETED, site.said()
    site.runs_only_on("beta")
    assert site.holds(site.beta, PATH, "qcow2", OVERLAID, "1M 1M")
    assert site.holds(site.beta, PATH, "qcow2", WRITTEN, "2M 5M")
    assert base in site.run(site.beta, f"qemu-img info -U {PATH}")


def test_a_file_at_the_destination_s_path_refuses_the_copy_and_stays(site):
    site.image(PATH)
    site.start(PATH)
    site.run(site.beta, f"echo somebody > {PATH}")
    with pytest.raises(CheckFailed, match="it may be this very one, or somebody's"):
        site.move(FULL)
    assert site.run(site.beta, f"cat {PATH}") == "somebody\n"
    assert site.ledger.migrations() == ()
    site.runs_only_on("alpha")


def test_an_aborted_copy_removes_the_image_that_was_made_and_no_other(site):
    site.image(PATH)
    site.start(PATH)
    site.run(site.beta, f"echo somebody > {IMAGES}/other.img")

    def abort(migration, job):
        if job is not None and job.disk_processed_bytes and not migration.abort_requested:
            site.engine().abort(1)

    done = site.move(attrs.evolve(FULL, bandwidth_mib_s=1), abort)
    assert done.status is MigrationStatus.CANCELLED, site.said()
    site.runs_only_on("alpha")
    assert site.listed(site.beta) == ["other.img"]
    assert site.holds(site.alpha, PATH, "raw", WRITTEN, "0 7M")
    assert f"removing the copy of vda at {PATH} on beta: done" in site.said()


def test_the_copy_of_a_controller_that_was_killed_is_finished_by_another(site):
    site.image(PATH)
    site.start(PATH)
    policy = attrs.evolve(FULL, bandwidth_mib_s=2)
    site.engine().start(site.ledger.instance("db1"), "beta", policy, handed_over=True)
    with subprocess.Popen([sys.executable, "-c", CONTROLLER, site.path]) as first:
        until(
            "a part of the disk is copied", lambda: (job := site.hosts["alpha"].job(site.uuid)) and job.disk_total_bytes
        )
        first.send_signal(signal.SIGKILL)
        first.wait(timeout=30)
    assert site.engine().recover(1).status is MigrationStatus.COMPLETED, site.said()
    site.runs_only_on("beta")
    assert site.holds(site.beta, PATH, "raw", WRITTEN, "0 7M")


def test_a_disk_on_a_path_that_both_hosts_see_moves_by_the_operator_s_word_and_is_not_copied(site):
    path = str(site.alpha.share / "shared.img")
    site.image(path)
    site.start(path)
    site.pool(site.beta, "shared", str(site.alpha.share))
    with pytest.raises(CheckFailed, match="it may be this very one"):
        site.move(FULL)
    assert site.move(MigrationPolicy(shared_storage=True)).status is MigrationStatus.COMPLETED, site.said()
    site.runs_only_on("beta")
    assert site.holds(site.alpha, path, "raw", WRITTEN, "0 7M")
    assert "shared by the operator's word" in "\n".join(site.said())
