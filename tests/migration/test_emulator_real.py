"""The threads of a real migration, by the kernels' own masks: on two libvirtds in namespaces, while the job runs."""

from __future__ import annotations

import contextlib
import threading

import attrs
import pytest

from labs import clear_guests
from numaferry import virt
from numaferry.audit import update_available_resource
from numaferry.ledger import open_ledger
from numaferry.migration.engine import MigrationEngine
from numaferry.model import CpuSet, HostConfig, Instance, MigrationPolicy, MigrationStatus, XmlKind
from numaferry.request import parse_domain
from numaferry.request.adoption import adopt
from real_moves import spec_on, start, until

pytestmark = pytest.mark.lab

#: The guest has CPU 1 for its own on either host, migrations have CPU 0; both are this machine's.
SETS = HostConfig(cpu_dedicated_set=CpuSet.parse("1"), migration_cpu_set=CpuSet.parse("0"), reserved_host_memory_mb=64)
#: Two connections, and slow enough to be looked at.
POLICY = MigrationPolicy(bandwidth_mib_s=4, parallel_connections=2)


def threads(host):
    """Each thread of the guest's QEMU on a host: (name, CPUs allowed), from /proc; empty where there is none."""
    told = host.exec(
        "for t in /proc/$(cat /run/libvirt/qemu/g1.pid)/task/*; do "
        "echo $(cat $t/comm)=$(sed -n 's/Cpus_allowed_list:\\t//p' $t/status); done"
    )
    return [tuple(line.rsplit("=", 1)) for line in told.output.split("\n") if "=" in line]


def masks(host, *names):
    """The CPUs of the threads whose name begins so."""
    return {name: mask for name, mask in threads(host) if name.startswith(names)}


def emulator(host):
    """The CPUs of the process's first thread, which libvirt pins and which makes the others."""
    return host.exec("sed -n 's/Cpus_allowed_list:\\t//p' /proc/$(cat /run/libvirt/qemu/g1.pid)/status").output.strip()


@contextlib.contextmanager
def moving(lab, ledger, hosts, uuid, **policy):
    """Drive a move of the guest to beta in a thread, and hand out the engine once its job copies."""
    engine = MigrationEngine(
        ledger,
        lambda record: virt.connect(record.uri),
        lambda host: update_available_resource(ledger, host, hosts[host]),
        poll_s=0.1,
        settle_s=0.3,
    )
    number = engine.start(ledger.instance("g1"), "beta", attrs.evolve(POLICY, **policy)).id
    driver = threading.Thread(target=lambda: engine.drive(number))
    driver.start()
    until("the copy", lambda: (job := hosts["alpha"].job(uuid)) and job.memory_processed_bytes)
    until("its threads", lambda: len(masks(lab.hosts[0], "multifdsend_")) == 2)
    yield engine, number
    driver.join(60)
    assert not driver.is_alive(), "the job does not end"


@pytest.fixture
def site(namespaces_lab, tmp_path):
    lab, ledger = namespaces_lab, open_ledger(str(tmp_path / "ledger.sqlite"))
    hosts = {host.name: virt.connect(host.uri) for host in lab.hosts}
    for host in lab.hosts:
        config = attrs.evolve(SETS, physical_networks=(("p0", host.data_links[0]),), migration_address=host.ip)
        ledger.add_host(host.name, hosts[host.name].facts(), config, confirmed=True)
    one = {"vcpus": 1, "vcpu_pins": {0: "1"}, "emulator_pin": "1", "iothreads": 0, "iothread_pins": {}, "nics": ()}
    cells = spec_on(lab, lab.hosts[0]).cells[:1]
    uuid = start(lab.hosts[0], spec_on(lab, lab.hosts[0], cells=cells, **one), persistent=True)
    record = ledger.host("alpha")
    needs = parse_domain(hosts["alpha"].domain(uuid).xml)
    found = adopt(needs, record.config.cpu_dedicated_set, record.facts.topology)
    ledger.claim_instance(Instance(uuid, "g1", "alpha", found.flavor, found.request, found.numa_topology))
    yield lab, ledger, hosts, uuid
    for hypervisor in hosts.values():
        hypervisor.close()
    clear_guests(lab)
    ledger.close()


def test_no_thread_of_a_migration_may_run_on_a_dedicated_cpu_and_after_an_abort_all_is_as_before(site):
    lab, ledger, hosts, uuid = site
    alpha, beta = lab.hosts
    assert emulator(alpha) == "1"
    with moving(lab, ledger, hosts, uuid) as (engine, number):
        sending = masks(alpha, "live_migration", "multifdsend_", "return path")
        assert sending == dict.fromkeys(["live_migration", "multifdsend_0", "multifdsend_1", "return path"], "0")
        receiving = masks(beta, "multifdrecv_")
        assert receiving == dict.fromkeys(["multifdrecv_0", "multifdrecv_1"], "0")
        assert (emulator(alpha), emulator(beta)) == ("0", "0")
        assert masks(alpha, "CPU 0") == {"CPU 0/TCG": "1"}, "the guest stays on its own"
        engine.abort(number)
    assert ledger.migration(number).status is MigrationStatus.CANCELLED
    assert emulator(alpha) == "1"
    assert str(parse_domain(hosts["alpha"].domain_xml(uuid, XmlKind.LIVE)).emulatorpin) == "1"


def test_after_the_switch_the_emulator_is_on_the_guests_own_cpus(site):
    lab, ledger, hosts, uuid = site
    with moving(lab, ledger, hosts, uuid, bandwidth_mib_s=12) as (_, number):
        assert masks(lab.hosts[0], "live_migration") == {"live_migration": "0"}
    assert ledger.migration(number).status is MigrationStatus.COMPLETED
    assert emulator(lab.hosts[1]) == "1"
    assert str(parse_domain(hosts["beta"].domain_xml(uuid, XmlKind.INACTIVE)).emulatorpin) == "1"
