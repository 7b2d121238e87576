"""Bad weather in the middle of libvirt's job: daemons that are killed, links that are cut, a disk that is full."""

from __future__ import annotations

import subprocess
import time

import pytest

from faults.stage import SHORT, Stage, cut, kill_libvirtd, read_kernel, until
from numaferry.errors import LedgerUnusable
from numaferry.model import MigrationStatus

pytestmark = pytest.mark.lab

SLOW_MIB_S = 12
#: Longer than every keep-alive: libvirtd gives its peer up after 30 s, a controller its host after 25 s.
LONG_S = 40


def half_way(stage, cell, **order):
    """Begin a slow move, and return its controller once the job is half-way."""
    first = stage.begin(bandwidth_mib_s=SLOW_MIB_S, **order)
    cell.hit = stage.half_way()
    assert cell.hit == "live_migration"
    return first


def arrived(stage, host):
    """Wait until the guest runs on `host` only, by the kernels' word: the controller's links may be cut."""
    hosts = {one.name: one for one in stage.lab.hosts}
    until(
        f"guest on {host} only",
        lambda: (
            {name: read_kernel(one).qemus for name, one in hosts.items()} == {name: int(name == host) for name in hosts}
        ),
        60,
    )


def reaches(lab, one, other):
    """Tell whether a machine of the lab can connect to another one's libvirtd within a second."""
    command = f"timeout 1 bash -c '</dev/tcp/{lab.host(other).ip}/16509'"
    if one == "controller":
        return subprocess.run(["sh", "-c", command], check=False, capture_output=True).returncode == 0
    return lab.host(one).exec(command).exit_code == 0


def test_a_cut_is_between_two_machines_and_no_others(namespaces_lab):
    links = [("controller", "alpha"), ("controller", "beta"), ("alpha", "beta")]
    for link in links:
        with cut(namespaces_lab, *link):
            assert [one for one in links if not reaches(namespaces_lab, *one)] == [link]
    assert all(reaches(namespaces_lab, *one) for one in links)


@pytest.mark.parametrize("side", ["source", "destination"])
def test_a_libvirtd_killed_in_the_middle_of_the_job_leaves_the_guest_on_the_source(stage, cell, side):
    cell.is_about("weather", f"libvirtd of the {side}", "kill -9, started again")
    source, dest = stage.source, stage.dest
    first = half_way(stage, cell)
    kill_libvirtd(stage.lab.host(source if side == "source" else dest))
    assert first.ends()["error"] == "migration-failed"
    stage.recovered()
    stage.ended(MigrationStatus.FAILED)
    stage.settled(source)
    cell.came_of_it("rolled back by its own controller")


@pytest.mark.parametrize("side", ["source", "destination"])
def test_a_controller_cut_off_from_a_host_until_the_guest_has_arrived_finishes(stage, cell, side):
    cell.is_about("weather", f"link of controller and {side}", "cut until the job has ended")
    source, dest = stage.source, stage.dest
    first = half_way(stage, cell)
    with cut(stage.lab, "controller", source if side == "source" else dest):
        arrived(stage, dest)
    assert first.ends()["ended"] == "completed"
    stage.settled(dest)
    cell.came_of_it("completed by its own controller")


@pytest.mark.soak
@pytest.mark.parametrize("side", ["source", "destination"])
def test_a_controller_cut_off_from_a_host_for_longer_than_the_keep_alive_finishes(stage, cell, side):
    """Its connection is given up, the job ends without it, and it waits until both hosts can be asked."""
    cell.is_about("weather", f"link of controller and {side}", f"cut for {LONG_S} s")
    source, dest = stage.source, stage.dest
    first = half_way(stage, cell, wait_s=2.0)
    with cut(stage.lab, "controller", source if side == "source" else dest):
        time.sleep(LONG_S)
    assert first.ends()["ended"] == "completed"
    stage.settled(dest)
    cell.came_of_it("completed by its own controller")


def test_a_link_between_the_hosts_that_is_cut_for_a_moment_delays_the_job(stage, cell):
    cell.is_about("weather", "link of both hosts", "cut for 3 s")
    dest = stage.dest
    first = half_way(stage, cell)
    with cut(stage.lab, stage.source, dest):
        time.sleep(3)
    assert first.ends()["ended"] == "completed"
    stage.settled(dest)
    cell.came_of_it("completed by its own controller")


@pytest.mark.soak
def test_a_link_between_the_hosts_that_is_cut_for_longer_than_the_keep_alive_leaves_the_guest_on_the_source(
    stage, cell
):
    cell.is_about("weather", "link of both hosts", f"cut for {LONG_S} s")
    source = stage.source
    first = half_way(stage, cell, wait_s=2.0)
    with cut(stage.lab, source, stage.dest):
        time.sleep(LONG_S)
    assert first.ends()["error"] == "migration-failed"
    stage.ended(MigrationStatus.FAILED)
    stage.settled(source)
    cell.came_of_it("rolled back by its own controller")


@pytest.mark.soak
@pytest.mark.parametrize("then", ["SIGCONT", "kill -9"])
def test_a_controller_stopped_in_a_transaction_keeps_every_other_from_writing_until_it_goes_on_or_dies(
    stage, cell, then
):
    """SQLite has one writer; what the others wait for is told."""
    cell.is_about("weather", "a transaction of SQLite", f"SIGSTOP, {then}")
    source, dest = stage.source, stage.dest
    first = stage.begin(stops_in_commit_of="live_migration", ttl_s=SHORT.ttl_s, longest_call_s=SHORT.longest_call_s)
    cell.hit = first.hit()
    first.is_stopped()
    time.sleep(SHORT.ttl_s + SHORT.longest_call_s)
    with pytest.raises(LedgerUnusable, match="is locked") as caught:
        stage.engine(policy=SHORT).recover(stage.last().id)
    assert caught.value.retryable
    assert stage.last().step == "pre_live_migration", "what was not committed can't be read"
    if then == "SIGCONT":
        first.go_on()
        assert first.ends()["ended"] == "completed"
        stage.settled(dest)
        cell.came_of_it("completed by its own controller")
    else:
        first.kill()
        stage.recovered()
        stage.ended(MigrationStatus.FAILED)
        stage.settled(source)
        cell.came_of_it("rolled back by the next controller")


class SmallDisk:
    """A file system in memory, of 2 MiB, that a test fills."""

    def __init__(self, path):
        self.path, self._ballast = path, path / "ballast"

    def fill(self):
        """Leave no byte free."""
        with self._ballast.open("wb", buffering=0) as file:
            pages = iter(lambda: file.write(bytes(4096)), 0)
            with pytest.raises(OSError, match="No space left"):
                list(pages)

    def free(self):
        """Give the room back."""
        self._ballast.unlink()


@pytest.fixture
def small_disk(tmp_path):
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2M", "tmpfs", str(path)], check=True)
    yield SmallDisk(path)
    subprocess.run(["umount", str(path)], check=True)


@pytest.fixture
def stage_on_a_small_disk(namespaces_stages, small_disk, tmp_path):
    """A stage whose ledger is on the small disk."""
    namespaces_stages.close()
    made = Stage(namespaces_stages.play, tmp_path, small_disk.path / "ledger.sqlite")
    yield made
    made.close()


@pytest.mark.parametrize(("ttl_s", "error"), [(30.0, "ledger-unusable"), (1.0, "lease-lapsed")])
def test_a_disk_that_is_full_in_the_middle_of_the_job_ends_the_controller_and_not_the_job(
    stage_on_a_small_disk, small_disk, cell, ttl_s, error
):
    """With a long lease it learns of it at its next commit, after the job; with a short one it lets the job go on."""
    cell.is_about("weather", "the ledger's disk", f"full, lease of {ttl_s:g} s")
    stage = stage_on_a_small_disk
    dest = stage.dest
    first = half_way(stage, cell, ttl_s=ttl_s)
    small_disk.fill()
    said = first.ends()
    assert (said["error"], first.process.returncode) == (error, 9)
    arrived(stage, dest)
    assert stage.last().status is MigrationStatus.RUNNING
    small_disk.free()
    stage.recovered()
    stage.ended(MigrationStatus.COMPLETED)
    stage.settled(dest)
    cell.came_of_it("completed by the next controller")
