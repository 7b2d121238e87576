"""docs/from-the-thread.md is true: every name can be imported, every test it names exists."""

import functools
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "from-the-thread.md"

#: The thread's own names (and nova's beside them) that the table has to have.
PROMISED = [
    "MoveClaim",
    "live_migration_claim",
    "drop_move_claim",
    "numa_fit_instance_to_host",
    "Migration",
    "migration_context",
    "mutated_migration_context",
    "update_usage_from_migration",
    "check_can_live_migrate_destination",
    "check_can_live_migrate_source",
    "pre_live_migration",
    "plug_vifs",
    "live_migration",
    "get_updated_guest_xml",
    "post_live_migration",
    "post_live_migration_at_destination",
    "rollback_live_migration",
    "rollback_live_migration_at_destination",
    "ResourceTracker",
    "update_available_resource",
    "select_destinations",
]


def rows():
    """The table's rows as lists of five cells."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def code(cell):
    return re.findall(r"`([^`]+)`", cell)


NAMES = [name for row in rows() for name in code(row[2]) if name.startswith("numaferry.")]
TESTS = [name for row in rows() for name in code(row[3])]


def resolve(dotted):
    """Import the longest module of a dotted name and look the rest up in it."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError as error:
            if error.name is None or not dotted.startswith(error.name):
                raise
            continue
        return functools.reduce(getattr, parts[end:], found)
    raise AssertionError(dotted)


def test_every_row_has_five_cells_a_name_and_a_test():
    assert rows()
    for row in rows():
        assert len(row) == 5, row
        assert all(row), row
        assert code(row[2]), row[0]
        assert code(row[3]), row[0]


@pytest.mark.parametrize("name", NAMES)
def test_the_name_is_there(name):
    assert resolve(name) is not None


def test_a_name_that_is_not_there_is_found_out():
    with pytest.raises(AttributeError):
        resolve("numaferry.ledger.claims.NoSuchClaim")


@pytest.mark.parametrize("name", TESTS)
def test_the_test_is_there(name):
    path, _, function = name.partition("::")
    text = (ROOT / path).read_text(encoding="utf-8")
    assert not function or re.search(rf"(?m)^def {re.escape(function)}\(", text), f"{path} has no {function}"


@pytest.mark.parametrize("word", PROMISED)
def test_the_thread_s_name_has_a_row(word):
    assert [name for name in NAMES if name.rpartition(".")[2] == word]


def test_the_steps_bear_the_thread_s_names():
    from numaferry.migration.steps import STEPS  # noqa: PLC0415  (the table is the subject of this test alone)

    names = {name.rpartition(".")[2] for name in NAMES}
    assert {step.name for step in STEPS} <= names
    assert {step.undo.__name__ for step in STEPS if step.undo} <= names
