"""kill -9 after each commit of a move that arrives and of one that libvirt refuses, on two real libvirtds."""

from __future__ import annotations

import pytest

from numaferry.migration.steps import STEPS, first_after
from numaferry.model import MigrationStatus

pytestmark = pytest.mark.lab

#: A move that arrives makes this many commits, one that the destination's libvirt refuses this many.
COMMITS_OF_A_MOVE = 21
COMMITS_OF_A_ROLL_BACK = 19

BEFORE_THE_JOB = [step.name for step in STEPS[: first_after(STEPS) - 1]]


@pytest.mark.parametrize("commit", range(1, COMMITS_OF_A_MOVE + 1))
def test_a_controller_killed_after_a_commit_of_a_move(stage, cell, commit):
    cell.is_about("commits of a move", f"{commit:02}", "kill -9")
    source, dest = stage.source, stage.dest
    first = stage.begin(dies_after_commit=commit)
    cell.hit = first.hit()
    first.dies()
    died_at = stage.last()
    arrives = died_at.step not in {"", *BEFORE_THE_JOB, "live_migration"}
    stage.recovered()
    stage.ended(MigrationStatus.COMPLETED if arrives else MigrationStatus.FAILED)
    stage.settled(dest if arrives else source)
    cell.came_of_it("completed" if arrives else "rolled back")


@pytest.mark.parametrize("commit", range(1, COMMITS_OF_A_ROLL_BACK + 1))
def test_a_controller_killed_after_a_commit_of_a_roll_back(stage, cell, commit):
    cell.is_about("commits of a roll back", f"{commit:02}", "kill -9")
    source = stage.source
    first = stage.begin(dies_after_commit=commit, dest_refuses=True)
    cell.hit = first.hit()
    first.dies()
    stage.recovered()
    stage.ended(MigrationStatus.FAILED)
    stage.settled(source)
    cell.came_of_it("rolled back")


def test_the_number_of_commits_is_as_the_two_tests_above_take_it(stage):
    source, dest = stage.source, stage.dest
    said = stage.begin(dest_refuses=True).ends()
    assert said["error"] == "migration-failed"
    stage.settled(source)
    assert len(said["commits"]) == COMMITS_OF_A_ROLL_BACK, "\n".join(said["commits"])
    said = stage.begin().ends()
    assert said["ended"] == "completed"
    stage.settled(dest)
    assert len(said["commits"]) == COMMITS_OF_A_MOVE, "\n".join(said["commits"])
