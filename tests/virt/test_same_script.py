"""One script, two worlds: what the simulated fleet shows is what two real libvirtds show.

Everything that is compared is what the rest of numaferry decides by: states and their reasons, masks, who has a job,
what is left after an abort, a refusal, a move. Times and byte counts are each world's own.
"""

from __future__ import annotations

import re
import threading
import time

import attrs
import pytest
from lxml import etree

from numaferry.errors import HypervisorError
from numaferry.lab.guests import BridgeNic, GuestCell, GuestSpec, MacvtapNic, domain_xml, put_in_share
from numaferry.model import MigrateCall, MigrationPolicy, Ownership, Vif, VifKind, XmlKind
from numaferry.virt.simulated import Fleet

pytestmark = pytest.mark.lab

MAC = "52:54:00:00:08:01"
HUGE = "<memoryBacking><hugepages><page size='2097152' unit='KiB'/></hugepages></memoryBacking>"

#: what is changed for the destination: (path, attribute, value); attribute "" is the text
MOVE = (
    ("devices/interface/source[@dev]", "dev", "{link}"),
    ("cputune/vcpupin[@vcpu='0']", "cpuset", "1"),
    ("cputune/vcpupin[@vcpu='1']", "cpuset", "0"),
)
REFUSALS = (
    ("devices/interface/source[@dev]", "dev", "eth9"),
    ("devices/interface/source[@bridge]", "bridge", "br77"),
    ("numatune/memnode[@cellid='0']", "nodeset", "5"),
    ("cputune/vcpupin[@vcpu='0']", "cpuset", "77"),
    ("devices/interface/mac[@address='52:54:00:00:08:01']", "address", "52:54:00:00:08:09"),
    ("cpu/numa/cell[@id='0']", "memory", "30720"),
    ("name", "", "g2"),
)


@attrs.frozen
class World:
    """A source and a destination, how to boot a guest on the source, and the destination's link names."""

    source: object
    dest: object
    start: object
    link: str
    bridge: str
    dest_uri: str
    migrate_uri: str


def edited(xml, changes, link=""):
    root = etree.fromstring(xml)
    for path, attribute, value in changes:
        (element,) = root.findall(path)
        if attribute:
            element.set(attribute, value.format(link=link))
        else:
            element.text = value
    return etree.tostring(root, encoding="unicode")


def seen(hypervisor, uuid):
    """What is seen of a domain, in plain values."""
    domain = hypervisor.domain(uuid)
    if domain is None:
        return None
    return (domain.name, domain.state.value, domain.state_reason, domain.persistent, domain.ownership)


def plain(error):
    """An error's text without the parts that differ between any two hosts."""
    text = re.sub(r"^\S+://\S+: ", "", error.message)
    return re.sub(r"on process \d+", "on process N", text)


def tried(work):
    """Return what a call returns, or its error in plain words."""
    try:
        return work()
    except HypervisorError as error:
        return plain(error)


def watched_abort(world, call):
    """Start a slow move, look at both sides, abort it; return what was seen."""
    ends = []
    worker = threading.Thread(target=lambda: ends.append(tried(lambda: world.source.live_migration(call))))
    worker.start()
    deadline = time.monotonic() + 30
    while (job := world.source.job(call.uuid)) is None or not job.memory_processed_bytes:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    during = (
        seen(world.source, call.uuid),
        seen(world.dest, call.uuid),
        0 < job.memory_processed_bytes < job.memory_total_bytes,
        job.memory_iteration >= 1,
        world.dest.job(call.uuid),
        world.source.completed_job(call.uuid),
    )
    world.source.abort_job(call.uuid)
    worker.join(30)
    return [during, *ends, world.source.job(call.uuid)]


def script(world, *, persistent):
    """Go through a guest's life and yield what can be seen of it."""
    uuid = world.start(persistent=persistent)
    yield seen(world.source, uuid), seen(world.dest, uuid), world.source.job(uuid), world.source.completed_job(uuid)
    yield world.source.thread_masks(uuid)
    yield [domain.name for domain in world.source.domains()], world.dest.domains()
    world.source.set_ownership(uuid, Ownership("l", "c", "m", 1))
    vifs = [Vif(MAC, VifKind.DIRECT, world.link), Vif(MAC, VifKind.BRIDGE, world.bridge)]
    yield world.dest.check_vifs(vifs), len(world.dest.check_vifs([Vif(MAC, VifKind.DIRECT, "eth9")]))

    live = world.source.domain_xml(uuid, XmlKind.MIGRATABLE)
    call = MigrateCall(
        uuid=uuid,
        dest_uri=world.dest_uri,
        migrate_uri=world.migrate_uri,
        dest_xml=edited(live, MOVE, world.link),
        persistent_xml=edited(world.source.domain_xml(uuid, XmlKind.INACTIVE), MOVE, world.link)
        if persistent
        else None,
    )
    for change in REFUSALS:
        wrong = attrs.evolve(call, dest_xml=edited(call.dest_xml, [change]))
        yield tried(lambda wrong=wrong: world.source.live_migration(wrong))
        yield seen(world.source, uuid), seen(world.dest, uuid)
    huge = attrs.evolve(call, dest_xml=call.dest_xml.replace("<vcpu ", f"{HUGE}<vcpu "))
    yield tried(lambda: world.source.live_migration(huge))
    yield watched_abort(world, attrs.evolve(call, policy=MigrationPolicy(bandwidth_mib_s=4)))
    yield seen(world.source, uuid), seen(world.dest, uuid), world.source.thread_masks(uuid)

    yield tried(lambda: world.source.live_migration(call))
    yield seen(world.source, uuid), seen(world.dest, uuid), world.dest.thread_masks(uuid)
    yield world.source.job(uuid), world.dest.job(uuid), world.source.completed_job(uuid)
    done = world.dest.completed_job(uuid)
    yield done.completed, done.memory_processed_bytes > 0, done.memory_remaining_bytes, done.downtime_ms > 0
    world.dest.set_pins(uuid, {0: world.dest.facts().topology.cpus}, persistent=persistent)
    yield world.dest.thread_masks(uuid)
    yield tried(lambda: world.dest.set_pins(uuid, {0: world.dest.facts().topology.cpus}, persistent=True))
    world.dest.set_ownership(uuid, None)
    world.dest.resume(uuid)
    yield seen(world.dest, uuid)


@pytest.mark.parametrize("persistent", [False, True])
def test_the_simulated_fleet_shows_what_real_hosts_show(real_lab, real_hosts, persistent):
    alpha, beta = real_lab.hosts
    spec = GuestSpec(
        name="g1",
        image=put_in_share(real_lab, "tiny"),
        serial=alpha.share / "same.serial",
        vcpus=2,
        cells=(GuestCell("0", 32, "0"), GuestCell("1", 32, "0")),
        vcpu_pins={0: "0", 1: "1"},
        emulator_pin="0-1",
        iothreads=1,
        iothread_pins={1: "1"},
        nics=(MacvtapNic(alpha.data_links[0], MAC), BridgeNic(alpha.bridges[0], "52:54:00:00:08:02")),
        dirty_mib=2,
    )

    def boot(*, persistent):
        connection = real_hosts[0]._connections.main.get()
        if not persistent:
            return connection.createXML(domain_xml(spec)).UUIDString()
        domain = connection.defineXML(domain_xml(spec))
        domain.create()
        return domain.UUIDString()

    real = World(*real_hosts, boot, beta.data_links[0], beta.bridges[0], beta.uri, f"tcp://{beta.ip}")
    shown = list(script(real, persistent=persistent))

    fleet = Fleet("same", pace_s=0.002)
    for host, hypervisor in zip(real_lab.hosts, real_hosts, strict=True):
        facts = hypervisor.facts()
        fleet.add_host(host.name, facts.topology, links=facts.links)
    try:
        simulated = World(
            fleet.hypervisor("alpha"),
            fleet.hypervisor("beta"),
            lambda *, persistent: fleet.start_guest("alpha", domain_xml(spec), persistent=persistent, dirty_mib_s=20),
            beta.data_links[0],
            beta.bridges[0],
            fleet.uri("beta"),
            "",
        )
        assert list(script(simulated, persistent=persistent)) == shown
    finally:
        fleet.close()
    assert len(shown) > 20
