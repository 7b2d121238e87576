"""Controllers killed and stopped in the middle of libvirt's job, which is slowed to last some seconds."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from faults.stage import SHORT, read_kernel, until
from numaferry.model import MigrationStatus

pytestmark = pytest.mark.lab

SLOW_MIB_S = 8


def test_a_controller_killed_in_the_middle_of_the_job_is_followed_by_one_that_adopts_it(stage, cell):
    cell.is_about("job", "in the middle", "kill -9")
    dest = stage.dest
    first = stage.begin(bandwidth_mib_s=SLOW_MIB_S)
    cell.hit = stage.half_way()
    first.kill()
    stage.recovered()
    assert stage.said_once("adopted")
    stage.ended(MigrationStatus.COMPLETED)
    stage.settled(dest)
    cell.came_of_it("adopted, completed")


def test_a_controller_stopped_in_the_middle_of_the_job_finds_that_another_has_adopted_it(stage, cell):
    """It goes on while the other watches the same job, which neither of them disturbs."""
    cell.is_about("job", "in the middle", "SIGSTOP, taken over, SIGCONT")
    dest = stage.dest
    started = read_kernel(stage.lab.host(dest)).starts
    first = stage.begin(bandwidth_mib_s=SLOW_MIB_S, ttl_s=SHORT.ttl_s, longest_call_s=SHORT.longest_call_s)
    cell.hit = stage.half_way()
    stage.stop(first)
    with ThreadPoolExecutor(max_workers=1) as pool:
        second = pool.submit(stage.taken_over, SHORT)
        until("an adopted job", lambda: stage.said_once("adopted") or second.done())
        first.go_on()
        assert first.ends()["error"] == "taken-over"
        assert stage.hosts[stage.source].job(stage.uuid) is not None, "the job goes on under the second one"
        second.result()
    assert read_kernel(stage.lab.host(dest)).starts == started + 1
    stage.ended(MigrationStatus.COMPLETED)
    stage.settled(dest)
    cell.came_of_it("adopted, completed")
