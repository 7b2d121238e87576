"""What goes wrong after the claim: the destination's QEMU, a person's abort, and the controller itself."""

from __future__ import annotations

import signal
import sqlite3

import pytest

pytestmark = pytest.mark.lab

SLOW = "2"

#: A controller of its own process that kills itself at a moment of the move; `ended` is after libvirt's job has ended
#: and before anything of that is written down.
CRASHES = """
import os, signal, sys
from numaferry.migration import beside
from numaferry.model import PolicyWish
from numaferry.service import Ferry

moment, bandwidth = sys.argv[1], int(sys.argv[2])

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

class Watch:
    def started(self, migration):
        if moment == "claimed":
            die()

    def progress(self, migration, progress):
        if moment == "copying":
            job = progress and progress.job
            if job is not None and job.memory_processed_bytes and job.memory_remaining_bytes:
                die()
        elif migration.step == moment:
            die()

if moment == "ended":
    beside._Worker.result = die
with Ferry.open() as ferry:
    ferry.migrate("db1", policy=PolicyWish.of(bandwidth_mib_s=bandwidth), watch=Watch())
"""

#: Moment → limit of the copy, where the guest is after the recovery.
MOMENTS = {
    "claimed": (0, "alpha"),
    "pre_live_migration": (0, "alpha"),
    "copying": (4, "beta"),
    "ended": (0, "beta"),
    "post_live_migration": (0, "beta"),
    "post_live_migration_at_destination": (0, "beta"),
}


def slow_move(operator):
    """Begin a move of some 20 s and return its process once some but not all memory was copied."""
    process = operator.begin("migrate", "db1", "--bandwidth", SLOW)
    for line in process.stderr:
        if "remaining" in line:
            return process
    pytest.fail("the move ended before it copied anything")


def test_a_destination_whose_qemu_does_not_start_leaves_the_guest_and_a_second_move_works(operator):
    """The guest's kernel is another file on the destination, which no check over libvirt can see."""
    guest = operator.start()
    operator.run("instance", "adopt", "db1")
    before = operator.virsh("alpha", "dumpxml", "db1")
    kernel = operator.xml("alpha", "db1").findtext("os/kernel")
    beta = operator.lab.host("beta")
    beta.exec(f"mount --bind /dev/null {kernel}")
    try:
        said = operator.run("migrate", "db1", code=6)
    finally:
        beta.exec(f"umount {kernel}")
    assert "the guest is on alpha" in said.err
    operator.settled(guest, "alpha")
    assert operator.virsh("alpha", "dumpxml", "db1") == before, "its mark is what it was"
    (failed,) = operator.told("migration", "list")
    assert failed["status"] == "failed"
    operator.run("migrate", "db1")
    operator.settled(guest, "beta")


def test_a_destination_whose_qemu_is_killed_under_way_leaves_the_guest_and_a_second_move_works(operator):
    guest = operator.start()
    operator.run("instance", "adopt", "db1")
    before = operator.virsh("alpha", "dumpxml", "db1")
    with slow_move(operator) as moving:
        operator.lab.host("beta").exec("kill -9 $(cat /run/libvirt/qemu/db1.pid)")
        _, err = moving.communicate(timeout=60)
        assert moving.returncode == 6, err
    assert "the guest is on alpha" in err
    operator.settled(guest, "alpha")
    assert operator.virsh("alpha", "dumpxml", "db1") == before
    operator.run("migrate", "db1")
    operator.settled(guest, "beta")


def test_an_abort_from_another_process_in_the_middle_of_the_job(operator):
    guest = operator.start()
    operator.run("instance", "adopt", "db1")
    with slow_move(operator) as moving:
        said = operator.run("migration", "abort", "1")
        out, err = moving.communicate(timeout=60)
    print(out, err)  # noqa: T201  (shown on failure)
    assert "1" in said.out
    assert moving.returncode == 6, "the move did not happen, and whoever waits for it must see that"
    assert "aborted on request" in err
    operator.settled(guest, "alpha")
    (cancelled,) = operator.told("migration", "list")
    assert cancelled["status"] == "cancelled"
    operator.run("migration", "abort", "1", code=3)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_controller_killed_at_a_moment_is_recovered_from(operator, moment):
    bandwidth, where = MOMENTS[moment]
    guest = operator.start()
    operator.run("instance", "adopt", "db1")
    crashed = operator.python(CRASHES, moment, str(bandwidth))
    assert crashed.returncode == -signal.SIGKILL, crashed.stderr
    (left,) = operator.told("migration", "list", "--in-progress")
    assert guest.goes_on()
    (done,) = operator.told("migration", "recover")
    assert done["outcome"] == "recovered", done
    assert operator.told("migration", "recover") == [], "nothing is left to recover"
    operator.settled(guest, where)
    status = "completed" if where == "beta" else "failed"
    assert operator.told("migration", "list")[0]["status"] == status
    said = operator.run("migration", "show", str(left["id"])).out
    if moment == "copying":
        assert "adopted; source alpha: running" in said
        assert "reports a running job" in said
        assert "MiB left" in said
        assert "MiB left" in done["sentence"]
    assert sqlite3.connect(operator.db).execute("PRAGMA integrity_check").fetchone() == ("ok",)
