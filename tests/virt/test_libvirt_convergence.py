"""Each way of making a job end, on two real libvirtds: the guest is moved by it, and counts on."""

import time

import attrs
import pytest

from numaferry.errors import HypervisorError
from numaferry.model import DomainState, HostConfig, MigrationPolicy, PostCopy
from real_moves import SLOW_MIB_S, call_to, in_thread, spec_on, start, until

pytestmark = pytest.mark.lab


def begun(lab, hosts, dirty_mib=0, **policy):
    """A guest whose job copies now; returns its UUID, the thread that waits, and what it raised."""
    source, _ = hosts
    uuid = start(lab.hosts[0], spec_on(lab, lab.hosts[0], dirty_mib=dirty_mib))
    policy = MigrationPolicy(**{"bandwidth_mib_s": SLOW_MIB_S, **policy})
    call = attrs.evolve(call_to(lab, source, uuid), policy=policy)
    worker, errors = in_thread(lambda: source.live_migration(call))
    until("progress", lambda: errors or ((now := source.job(uuid)) and now.memory_processed_bytes))
    return uuid, worker, errors


def arrived(hosts, uuid, worker, errors, seconds=60):
    """Assert that the guest runs on the destination and nowhere else."""
    worker.join(seconds)
    assert not worker.is_alive(), "the job does not end"
    assert errors == []
    source, dest = hosts
    assert source.domain(uuid) is None
    assert dest.domain(uuid).state is DomainState.RUNNING


def test_a_longer_pause_that_is_allowed_lets_a_busy_guest_switch(real_lab, real_hosts):
    uuid, worker, errors = begun(real_lab, real_hosts, dirty_mib=2)
    until("a second pass", lambda: real_hosts[0].job(uuid).memory_iteration >= 2)
    real_hosts[0].set_max_downtime(uuid, 30_000)
    arrived(real_hosts, uuid, worker, errors)
    real_hosts[0].set_max_downtime(uuid, 300)  # the job is over: nothing happens


def test_post_copy_lets_the_guest_run_there_at_once(real_lab, real_hosts):
    uuid, worker, errors = begun(real_lab, real_hosts, dirty_mib=2, post_copy=PostCopy.ON_DEMAND)
    until("a first pass", lambda: real_hosts[0].job(uuid).memory_iteration >= 1)
    real_hosts[0].start_postcopy(uuid)
    arrived(real_hosts, uuid, worker, errors)


def test_post_copy_that_was_not_allowed_is_refused_and_the_job_goes_on(real_lab, real_hosts):
    uuid, worker, errors = begun(real_lab, real_hosts, dirty_mib=2)
    with pytest.raises(HypervisorError):
        real_hosts[0].start_postcopy(uuid)
    assert real_hosts[0].job(uuid) is not None
    real_hosts[0].abort_job(uuid)
    worker.join(30)
    assert len(errors) == 1
    assert real_hosts[0].domain(uuid).state is DomainState.RUNNING


def test_only_a_guest_on_its_way_is_paused(real_lab, real_hosts):
    """And it runs on the destination, by libvirt's own doing: nobody has to resume it."""
    source, _ = real_hosts
    resting = start(real_lab.hosts[0], spec_on(real_lab, real_lab.hosts[0], name="g2", nics=()))
    with pytest.raises(HypervisorError, match="under no migration job"):
        source.suspend(resting)
    assert source.domain(resting).state is DomainState.RUNNING
    uuid, worker, errors = begun(real_lab, real_hosts, dirty_mib=4)
    source.suspend(uuid)
    assert source.domain(uuid).state is DomainState.PAUSED
    arrived(real_hosts, uuid, worker, errors)


def test_auto_converge_throttles_a_guest_that_dirties_faster_than_the_link(real_lab, real_hosts):
    source, _ = real_hosts
    uuid, worker, errors = begun(
        real_lab,
        real_hosts,
        dirty_mib=8,
        bandwidth_mib_s=16,
        auto_converge=True,
        auto_converge_initial=70,
        auto_converge_increment=20,
    )
    throttles = set()

    def throttled():
        job = source.job(uuid)
        throttles.add(job.auto_converge_throttle if job else 0)
        return not worker.is_alive() or max(throttles) >= 70

    until("the throttle", throttled, 60)
    assert max(throttles) >= 70, throttles
    if worker.is_alive():
        source.set_max_downtime(uuid, 5000)
    arrived(real_hosts, uuid, worker, errors, 90)


def test_memory_goes_over_several_connections(real_lab, real_hosts):
    uuid, worker, errors = begun(real_lab, real_hosts, parallel_connections=2, bandwidth_mib_s=64)
    arrived(real_hosts, uuid, worker, errors)


def test_memory_is_compressed(real_lab, real_hosts):
    uuid, worker, errors = begun(real_lab, real_hosts, compression="xbzrle", bandwidth_mib_s=64)
    arrived(real_hosts, uuid, worker, errors)


def test_expected_pause_and_total_are_told_while_it_runs(real_lab, real_hosts):
    source, _ = real_hosts
    uuid, worker, errors = begun(real_lab, real_hosts, dirty_mib=2)
    time.sleep(1)
    job = source.job(uuid)
    assert job.memory_total_bytes > job.memory_remaining_bytes > 0
    assert job.setup_ms >= 0
    source.abort_job(uuid)
    worker.join(30)
    assert len(errors) == 1


def test_memory_goes_to_an_ipv6_address(real_lab, real_hosts):
    """The address is on the destination alone, so that a copy that arrives went there; its qemu.conf says another."""
    number = {host.name: f"fd77::{index}" for index, host in enumerate(real_lab.hosts, 1)}
    for host in real_lab.hosts:
        said = host.access.exec(f"ip -6 addr replace {number[host.name]}/64 dev mgmt0 nodad", 10)
        assert said.exit_code == 0, said.output
    source, _ = real_hosts
    uuid = start(real_lab.hosts[0], spec_on(real_lab, real_lab.hosts[0]))
    config = HostConfig(migration_address=number["beta"])
    call = attrs.evolve(
        call_to(real_lab, source, uuid, bandwidth_mib_s=64),
        migrate_uri=config.migrate_uri,
        listen_address=config.listen_address,
    )
    assert call.migrate_uri == "tcp://[fd77::2]"
    with pytest.raises(HypervisorError):
        source.live_migration(attrs.evolve(call, migrate_uri="tcp://[fd77::99]"))
    worker, errors = in_thread(lambda: source.live_migration(call))
    arrived(real_hosts, uuid, worker, errors)
