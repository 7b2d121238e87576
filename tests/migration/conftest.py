"""A small fleet with a ledger, and what must hold after anything that was done to it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import attrs
import pytest

from numaferry.audit import update_available_resource
from numaferry.ledger import open_ledger
from numaferry.migration.engine import MigrationEngine
from numaferry.migration.steps import STEPS
from numaferry.model import CpuSet, HostConfig, Instance, MigrationStatus
from numaferry.request import parse_domain
from numaferry.request.adoption import adopt
from numaferry.virt.libvirt.domain_xml import emulator_cpus
from numaferry.virt.simulated import Fleet

TOPOLOGY = "2 cells x 4 cores x 2 threads, 4G, 2M:256"
CONFIG = HostConfig(
    cpu_dedicated_set=CpuSet.parse("2-15"), cpu_shared_set=CpuSet.parse("0-1"), reserved_host_memory_mb=64
)
LINKS = {"alpha": "ens4f0", "beta": "enp7s0", "gamma": "eth9"}


def guest_xml(name="db1", cpus=(2, 4, 8, 10), *, link="ens4f0", iothreads=0, extra=""):
    """A guest of two cells with two vCPUs each, 2 MiB pages, a macvtap NIC, and a secret to look for."""
    pins = "".join(f"<vcpupin vcpu='{vcpu}' cpuset='{cpu}'/>" for vcpu, cpu in enumerate(cpus))
    return f"""
<domain type='kvm'><name>{name}</name><memory unit='MiB'>128</memory>
<memoryBacking><hugepages><page size='2048' unit='KiB'/></hugepages></memoryBacking>
<vcpu placement='static'>4</vcpu><iothreads>{iothreads}</iothreads>
<cputune>{pins}<emulatorpin cpuset='{",".join(map(str, cpus))}'/></cputune>
<numatune><memory mode='strict' nodeset='0-1'/>
<memnode cellid='0' mode='strict' nodeset='0'/><memnode cellid='1' mode='strict' nodeset='1'/></numatune>
<os><type arch='x86_64' machine='q35'>hvm</type></os>
<cpu><numa><cell id='0' cpus='0-1' memory='64' unit='MiB'/><cell id='1' cpus='2-3' memory='64' unit='MiB'/></numa></cpu>
<devices><interface type='direct'><mac address='52:54:00:00:00:01'/><source dev='{link}' mode='bridge'/></interface>
<graphics type='vnc' passwd='hunter2'/>{extra}</devices></domain>
"""


class Site:
    """Three simulated hosts, a ledger that has confirmed them, and engines to drive migrations with."""

    def __init__(self, fleet, ledger):
        self.fleet, self.ledger = fleet, ledger
        self.progress = []
        #: Where each guest's emulator threads ran when it was started.
        self.emulators = {}
        for name, link in LINKS.items():
            fleet.add_host(name, TOPOLOGY, links=(link,))
            config = attrs.evolve(CONFIG, physical_networks=(("physnet0", link),))
            ledger.add_host(name, fleet.hypervisor(name).facts(), config, confirmed=True)

    def xml(self, **words):
        return guest_xml(**words)

    def hypervisor(self, host):
        return self.fleet.hypervisor(host)

    def audit(self, host):
        return update_available_resource(self.ledger, host, self.hypervisor(host))

    def engine(self, ledger=None, *, on_progress=None, audit=None, connect=None, **more):
        """A controller of its own; its time is the fleet's."""
        return MigrationEngine(
            ledger or self.ledger,
            connect or (lambda record: self.fleet.hypervisor(record.name)),
            audit or self.audit,
            on_progress or (lambda migration, job: self.progress.append((migration, job))),
            **{
                "sleep": self.fleet.advance,
                "clock": lambda: self.fleet.now_s,
                "poll_s": 0.001,
                "waits": 5,
                **more,
            },
        )

    @staticmethod
    def altered(name, *, before=None, after=None, twice=False):
        """The table of steps with a fault in one; `before` and `after` are called around its forward action."""

        def forward(move, original):
            if before:
                before()
            original(move)
            if twice:
                original(move)
            if after:
                after()

        return tuple(
            attrs.evolve(step, forward=lambda move, original=step.forward: forward(move, original))
            if step.name == name
            else step
            for step in STEPS
        )

    def recover(self, number, *, left_by=None, **engine):
        """What a new controller does with the migration of one that is known to be dead."""
        gone = self.ledger.migration(number).controller if left_by is None else left_by
        return self.engine(**engine).recover(number, left_by=gone)

    def answer(self, number, answer, **engine):
        """What a person answers for the migration of a controller that is known to be dead."""
        gone = self.ledger.migration(number).controller
        return self.engine(**engine).answer(number, answer, left_by=gone)

    def taken_over(self, number, by="another"):
        """Let another controller take a migration whose driver it holds to be dead."""
        gone = self.ledger.migration(number).controller
        return self.ledger.take_lease(number, by, 30.0, grace_s=60.0, gone=gone, key=f"{number} taken by {by}")

    def guest(self, name="db1", cpus=(2, 4, 8, 10), host="alpha", *, adopted=True, persistent=True, **more):
        """Start a guest and, unless told otherwise, adopt it as it is; returns its UUID.

        `policy` is an emulator threads policy, as a flavor would ask for it.
        """
        policy = more.pop("policy", None)
        uuid = self.fleet.start_guest(host, guest_xml(name, cpus, link=LINKS[host], **more), persistent=persistent)
        self.emulators[uuid] = CpuSet.of(cpus)
        if adopted:
            needs = parse_domain(self.hypervisor(host).domain(uuid).xml)
            adoption = adopt(needs, CONFIG.cpu_dedicated_set, self.ledger.host(host).facts.topology)
            self.ledger.claim_instance(
                Instance(
                    uuid=uuid,
                    name=name,
                    host=host,
                    flavor=adoption.flavor,
                    request=attrs.evolve(adoption.request, emulator_threads_policy=policy),
                    numa_topology=attrs.evolve(adoption.numa_topology, emulator_threads_policy=policy),
                    vifs=needs.vifs,
                    persistent=persistent,
                )
            )
        return uuid

    def sentences(self, migration_id=1):
        return [event.sentence for event in self.ledger.events(migration=migration_id)]

    def holders(self, uuid):
        """Where the guest has a claim: host → claim id."""
        return {
            host: one.claim_id for host in LINKS for one in self.ledger.view(host).holdings if one.instance_uuid == uuid
        }

    def settled(self, uuid, *, moved=None):
        """Assert what must hold once a migration has ended; `moved` says where the guest has to be."""
        ledger, fleet = self.ledger, self.fleet
        assert not [one for one in ledger.migrations() if one.in_progress], self.story()
        [host] = fleet.running_on(uuid)
        if moved is not None:
            assert host == ("beta" if moved else "alpha"), self.story()
        life = fleet.lives[uuid]
        assert (life.twice_s, life.starts) == (0, 1), "it ran twice, or was started anew"
        before = fleet.counter(uuid)
        fleet.advance(1)
        assert fleet.counter(uuid) == before + 10, "it does not go on"
        instance = ledger.instance_by_uuid(uuid)
        assert instance.host == host, "the ledger says another host than reality"
        assert list(self.holders(uuid)) == [host], "a claim is leaked or lost"
        assert instance.migration_context is None
        masks = dict(self.hypervisor(host).thread_masks(uuid).vcpus)
        assert masks == {vcpu: CpuSet.of([cpu]) for vcpu, cpu in instance.numa_topology.cpu_pinning}
        assert self.emulator(uuid) == self.emulator_promised(uuid), self.story()
        mark = self.hypervisor(host).domain(uuid).ownership
        assert mark is None or (mark.claim_id, mark.migration_uuid) == (self.holders(uuid)[host], "")

    def emulator(self, uuid):
        """Where the emulator threads run by the kernel's mask."""
        [host] = self.fleet.running_on(uuid)
        return self.fleet.hosts[host].domains[uuid].emulator_mask

    def emulator_promised(self, uuid):
        """Where they have to run: by the policy once the guest was moved, else where they were.

        What libvirt refused twice is told and left to the audit.
        """
        instance = self.ledger.instance_by_uuid(uuid)
        moves = [one for one in self.ledger.migrations() if one.instance_uuid == uuid]
        said = [sentence for one in moves for sentence in self.sentences(one.id)]
        deaf = any("fault: pins-ignored" in line for line in self.fleet.story)
        if deaf or any("the emulator's CPUs" in one and "did not work" in one for one in said):
            return self.emulator(uuid)
        if not any(one.status is MigrationStatus.COMPLETED for one in moves):
            return self.emulators[uuid]
        record = self.ledger.host(instance.host)
        return emulator_cpus(instance, dest_facts=record.facts, dest_config=record.config).settled

    def story(self):
        """What happened, for a failed assertion."""
        return "\n".join([*self.sentences(), *self.fleet.story])


@pytest.fixture
def directory(tmp_path):
    """A directory in memory where there is one: hundreds of ledgers with full sync are the disk's test, not ours."""
    if not Path("/dev/shm").is_dir():  # noqa: S108  (a directory of its own is made in it)
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as made:
        yield Path(made)


@pytest.fixture
def site(directory, request):
    fleet = Fleet(f"t-{abs(hash(request.node.nodeid))}", seed=1)
    ledger = open_ledger(str(directory / "ledger.sqlite"))
    yield Site(fleet, ledger)
    ledger.close()
    fleet.close()


@pytest.fixture(scope="session")
def site_class():
    """The class itself, for tests that make many sites."""
    return Site
