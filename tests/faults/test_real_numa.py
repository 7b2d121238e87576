"""kill -9 of the controller on hosts with real NUMA: one for each phase, and each step of the table under `soak`.

Beside what `Stage.settled` asserts, the huge pages of each cell are where the claim says, and back on the other host.
"""

from __future__ import annotations

import pytest

from faults.controller import Fault
from faults.stage import NAME
from numaferry.migration.steps import STEPS, first_after
from numaferry.model import MigrationStatus

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(400)]

SLOW_MIB_S = 8
STEP_NAMES = [step.name for step in STEPS]
BEFORE_THE_SWITCH = set(STEP_NAMES[: first_after(STEPS)])


def killed_in_a_step(stage, step, fault):
    """Let a controller be killed in a step, recover, and assert all; returns where it was hit, and the outcome."""
    source, dest = stage.source, stage.dest
    arrives = step not in BEFORE_THE_SWITCH or (step, fault) == ("live_migration", Fault.KILLED_AFTER)
    first = stage.begin(step=step, fault=fault)
    hit = first.hit()
    first.dies()
    stage.recovered()
    stage.ended(MigrationStatus.COMPLETED if arrives else MigrationStatus.FAILED)
    settled(stage, dest if arrives else source)
    return hit, "completed" if arrives else "rolled back"


def settled(stage, host):
    """Assert that all is well, and where the huge pages are."""
    stage.settled(host)
    claimed = {}
    for cell in stage.ledger.instance(NAME).numa_topology.cells:
        assert cell.page_size_kib == 2048
        claimed[cell.host_cell] = claimed.get(cell.host_cell, 0) + cell.memory_kib // 2048
    for name, hypervisor in stage.hosts.items():
        now = hypervisor.free_pages()
        taken = {cell: stage.free_pages[name][cell][2048] - now[cell][2048] for cell in now}
        assert taken == {cell: claimed.get(cell, 0) if name == host else 0 for cell in now}, name


def test_a_controller_killed_while_preparing_leaves_the_guest_and_its_pages_on_the_source(hosts_stage, cell):
    cell.is_about("steps", "pre_live_migration", Fault.KILLED_AFTER)
    cell.hit, outcome = killed_in_a_step(hosts_stage, cell.place, cell.fault)
    assert cell.hit == cell.place
    cell.came_of_it(outcome)


def test_a_controller_killed_in_the_middle_of_the_job_is_followed_by_one_that_adopts_it(hosts_stage, cell):
    cell.is_about("job", "in the middle", "kill -9")
    dest = hosts_stage.dest
    first = hosts_stage.begin(bandwidth_mib_s=SLOW_MIB_S)
    cell.hit = hosts_stage.half_way()
    first.kill()
    hosts_stage.recovered()
    assert hosts_stage.said_once("adopted")
    hosts_stage.ended(MigrationStatus.COMPLETED)
    settled(hosts_stage, dest)
    cell.came_of_it("adopted, completed")


def test_a_controller_killed_before_the_flip_leaves_a_guest_whose_pages_are_on_the_destination(hosts_stage, cell):
    cell.is_about("steps", "post_live_migration", Fault.KILLED_BEFORE)
    cell.hit, outcome = killed_in_a_step(hosts_stage, cell.place, cell.fault)
    assert cell.hit == cell.place
    cell.came_of_it(outcome)


@pytest.mark.soak
@pytest.mark.parametrize("fault", [Fault.KILLED_BEFORE, Fault.KILLED_AFTER])
@pytest.mark.parametrize("step", STEP_NAMES)
def test_a_controller_killed_in_any_step(hosts_stage, cell, step, fault):
    cell.is_about("steps", step, fault)
    cell.hit, outcome = killed_in_a_step(hosts_stage, step, fault)
    assert cell.hit == step
    cell.came_of_it(outcome)
