"""docs/faults.md has every step with every fault, every commit, and nothing that is not as its test expects."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from faults.controller import Fault
from faults.matrix import NOT_AS_EXPECTED
from faults.test_namespaces_commits import COMMITS_OF_A_MOVE, COMMITS_OF_A_ROLL_BACK
from numaferry.migration.steps import STEPS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")


def rows(title):
    """The table under a heading, as rows of cells; the first is its header."""
    section = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ") and not line.startswith("| --- ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_step_has_an_outcome_for_every_fault():
    header, *steps = rows("Steps")
    assert header == ["step", *Fault]
    assert [row[0] for row in steps] == [f"`{step.name}`" for step in STEPS]
    assert {outcome for row in steps for outcome in row[1:]} == {"completed", "rolled back"}
    assert all(len(row) == len(header) for row in steps)


@pytest.mark.parametrize(
    ("title", "count"),
    [
        ("kill -9 after each commit of a move", COMMITS_OF_A_MOVE),
        ("kill -9 after each commit of a roll back", COMMITS_OF_A_ROLL_BACK),
    ],
)
def test_every_commit_is_there(title, count):
    _, *commits = rows(title)
    assert [int(row[0]) for row in commits] == list(range(1, count + 1))


@pytest.mark.parametrize(
    "title", ["The middle of the job", "Between the lease and the call", "Bad weather", "Hosts with real NUMA"]
)
def test_the_other_tables_are_not_empty(title):
    assert len(rows(title)) > 1


def test_nothing_in_it_went_otherwise_than_its_test_expects(monkeypatch):
    assert NOT_AS_EXPECTED not in PAGE
    spec = importlib.util.spec_from_file_location("make_faults", ROOT / "tools" / "make_faults.py")
    make = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "make_faults", make)
    spec.loader.exec_module(make)
    failed = {"test": "test_x", "group": "job", "place": "here", "fault": "kill -9", "outcome": NOT_AS_EXPECTED}
    monkeypatch.setattr(make, "load", lambda lab: [failed] if lab == "hosts" else [])
    with pytest.raises(ValueError, match="test_x"):
        make.page()


def test_no_figures_of_one_run_are_in_it():
    assert not re.search(r"\d+ ms|\d+ MiB", PAGE)
