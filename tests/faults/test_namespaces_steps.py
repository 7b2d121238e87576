"""Every step of the table with every fault in it, on two real libvirtds: real guests, controllers that really die.

After each the guest runs on one host, counted on without a restart, holds one claim, there, and nothing is left of the
migration anywhere (`Stage.settled`).
"""

from __future__ import annotations

import pytest

from faults.controller import Fault
from faults.stage import SHORT
from numaferry.migration.steps import STEPS, first_after
from numaferry.model import MigrationStatus

pytestmark = pytest.mark.lab

STEP_NAMES = [step.name for step in STEPS]
BEFORE_THE_SWITCH = set(STEP_NAMES[: first_after(STEPS)])


def arrives(step, fault):
    """Tell whether the guest ends up on the destination: libvirt's job was done, or is done after the fault."""
    if fault is Fault.TWICE or step not in BEFORE_THE_SWITCH:
        return True
    return step == "live_migration" and fault in {Fault.FAILS_AFTER, Fault.KILLED_AFTER}


@pytest.mark.parametrize("fault", list(Fault))
@pytest.mark.parametrize("step", STEP_NAMES)
def test_every_step_with_every_fault(stage, cell, step, fault):
    cell.is_about("steps", step, fault)
    source, dest = stage.source, stage.dest
    first = stage.begin(step=step, fault=fault, ttl_s=SHORT.ttl_s, longest_call_s=SHORT.longest_call_s)
    cell.hit = first.hit()
    assert cell.hit == step
    if fault is Fault.STOPPED:
        first.is_stopped()
        stage.taken_over(SHORT)
        stage.is_refused_and_changes_nothing(first)
    elif fault in {Fault.KILLED_BEFORE, Fault.KILLED_AFTER}:
        first.dies()
        assert (stage.last().in_progress, stage.last().step) == (True, step)
        stage.recovered()
    else:
        first.ends()
        assert stage.recovered() == stage.last()
    arrived = arrives(step, fault)
    stage.ended(MigrationStatus.COMPLETED if arrived else MigrationStatus.FAILED)
    stage.settled(dest if arrived else source)
    cell.came_of_it("completed" if arrived else "rolled back")
