"""The table of steps, read as a table."""

from numaferry.migration.states import TRANSITIONS
from numaferry.migration.steps import STEPS, first_after, place_of
from numaferry.model import MigrationStatus


def test_the_names_are_the_thread_s_in_their_order():
    assert [step.name for step in STEPS] == [
        "check_can_live_migrate_destination",
        "check_can_live_migrate_source",
        "pre_live_migration",
        "live_migration",
        "post_live_migration",
        "post_live_migration_at_destination",
        "update_available_resource",
    ]
    assert [step.undo.__name__ for step in reversed(STEPS) if step.undo] == [
        "rollback_live_migration",
        "rollback_live_migration_at_destination",
    ]


def test_there_is_one_point_of_no_return_and_nothing_is_undone_after_it():
    assert [step.name for step in STEPS if step.point_of_no_return] == ["live_migration"]
    assert STEPS[first_after(STEPS)].name == "post_live_migration"
    assert not [step.name for step in STEPS[first_after(STEPS) :] if step.undo]


def test_every_step_s_event_leads_to_its_status_from_the_one_before():
    status = MigrationStatus.ACCEPTED
    for step in STEPS:
        if status is not step.status:
            assert TRANSITIONS[status][step.event] is step.status
        status = step.status
    assert status is MigrationStatus.POST_MIGRATING


def test_every_step_says_what_it_is_about_to_do_and_why_it_stands_there():
    for step in STEPS:
        assert len(step.why) > 80
        assert "{" not in step.intent.format(name="db1", source="alpha", dest="beta")


def test_the_name_of_an_undo_stands_for_no_progress():
    assert place_of(STEPS, "rollback_live_migration") == place_of(STEPS, "") == 0
    assert place_of(STEPS, "live_migration") == 3
