"""Every combination of what two hosts can say has an answer, and no answer can run a guest twice."""

import itertools

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numaferry.migration.evidence import DestWord, Phase, SourceWord, Unreachable, dest_word, phase_of, source_word
from numaferry.migration.recovery import TABLES, Action, decide
from numaferry.model import DomainSeen, DomainState, JobInfo, Migration, MigrationStatus, Ownership

MIB = 1 << 20
SILENT = Unreachable("connection refused")
JOB = JobInfo(memory_total_bytes=512 * MIB, memory_remaining_bytes=43 * MIB)


def migration(status=MigrationStatus.RUNNING, step="live_migration"):
    return Migration(id=1, uuid="m-1", instance_uuid="u", source="alpha", dest="beta", status=status, step=step)


def seen(state, reason="", *, mark=None, token=0):
    ownership = None if mark is None else Ownership("ledger", "claim", mark, token)
    return DomainSeen("u", "db1", DomainState(state), reason, persistent=True, xml="<domain/>", ownership=ownership)


#: The guest on the source as it is while our job runs: the mark is written before the job is asked for.
OURS = seen("running", "booted", mark="m-1")


# What architecture.md says under "The migration's phases", case by case.
@pytest.mark.parametrize(
    ("case", "source", "job", "dest", "action"),
    [
        ("active on the destination: finish", None, None, seen("running", "migrated"), Action.FINISH),
        ("the same, defined on the source", seen("shutoff", "migrated"), None, seen("running"), Action.FINISH),
        ("on the source with a running job: adopt", OURS, JOB, seen("paused", "migration"), Action.ADOPT),
        (
            "last phase of the job",
            seen("paused", "migration", mark="m-1"),
            JOB,
            seen("paused", "migration"),
            Action.ADOPT,
        ),
        ("on the source without: roll back", seen("running"), None, None, Action.ROLL_BACK),
        ("paused on the source, nothing on dest: resume", seen("paused", "migration"), None, None, Action.RESUME),
        ("on neither, it shut down", seen("shutoff", "shutdown"), None, None, Action.CANCELLED),
        ("on neither, it crashed", seen("shutoff", "crashed"), None, None, Action.CANCELLED),
        ("on neither, no reason", None, None, None, Action.NEEDS_PERSON),
        ("on neither, 'migrated' nowhere", seen("shutoff", "migrated"), None, None, Action.NEEDS_PERSON),
        ("on both: touch nothing", seen("running"), None, seen("running"), Action.NEEDS_PERSON),
        ("on both, source paused", seen("paused", "migration"), None, seen("running"), Action.NEEDS_PERSON),
        ("source unreachable: wait", SILENT, None, seen("running"), Action.WAIT),
        ("dest unreachable: wait", seen("running"), None, SILENT, Action.WAIT),
        ("dest unreachable, source paused: wait", seen("paused", "migration"), None, SILENT, Action.WAIT),
        ("a person paused it: not ours to resume", seen("paused", "user"), None, None, Action.ROLL_BACK),
        ("the destination still receives: wait", seen("running"), None, seen("paused", "migration"), Action.WAIT),
    ],
)
def test_the_cases_of_a_running_migration(case, source, job, dest, action):
    assert decide(migration(), source, job, dest).action is action, case


def test_before_the_job_a_silent_destination_does_not_keep_the_claim():
    decision = decide(migration(MigrationStatus.PREPARING, "pre_live_migration"), seen("running"), None, SILENT)
    assert decision.action is Action.ROLL_BACK


def test_before_the_job_a_stranger_s_job_is_waited_for_only_where_it_goes_to_the_claimed_host():
    early = migration(MigrationStatus.PREPARING, "pre_live_migration")
    assert decide(early, seen("running"), JOB, seen("paused", "migration")).action is Action.WAIT
    assert decide(early, seen("running"), JOB, None).action is Action.ROLL_BACK


@pytest.mark.parametrize(
    "theirs",
    [
        seen("running"),
        seen("running", mark=""),
        seen("running", mark="m-2"),
        seen("running", mark="m-1", token=migration().token + 1),
    ],
    ids=["no mark", "no migration's", "another migration's", "a later controller's"],
)
def test_a_job_on_a_guest_that_does_not_bear_our_mark_is_not_adopted(theirs):
    """Our own mark is written before our job is asked for; a job that was adopted would be aborted on request."""
    assert decide(migration(), theirs, JOB, seen("paused", "migration")).action is Action.WAIT
    given_up = decide(migration(), theirs, JOB, None)
    assert given_up.action is Action.ROLL_BACK
    assert "reports a running job that is not this migration's" in given_up.sentence


def test_a_job_that_an_earlier_controller_of_this_migration_asked_for_is_adopted():
    taken_over = attrs.evolve(migration(), token=3)
    assert decide(taken_over, seen("running", mark="m-1", token=2), JOB, None).action is Action.ADOPT


def test_after_the_flip_a_guest_that_has_ended_is_finished_all_the_same():
    late = migration(MigrationStatus.POST_MIGRATING, "post_live_migration_at_destination")
    assert decide(late, None, None, None).action is Action.FINISH


def test_the_sentence_of_an_adopted_job_tells_how_much_is_left():
    decision = decide(migration(), OURS, JOB, seen("paused", "migration"))
    assert decision.sentence == (
        "adopted; source alpha: running (booted), reports a running job, 43 of 512 MiB left; "
        "dest beta: paused (migration)"
    )


def test_a_domain_on_the_destination_that_another_migration_put_there_needs_a_person():
    assert decide(migration(), None, None, seen("running", mark="m-2")).action is Action.NEEDS_PERSON
    assert decide(migration(), None, None, seen("running", mark="m-1")).action is Action.FINISH
    assert decide(migration(), None, None, seen("running", mark="")).action is Action.FINISH


def test_the_tables_are_total():
    assert set(TABLES) == set(Phase)
    for table in TABLES.values():
        assert set(table) == set(SourceWord)
        assert {len(row) for row in table.values()} == {len(DestWord)}


MAY_RUN_ON_SOURCE = {
    SourceWord.UNREACHABLE,
    SourceWord.JOB,
    SourceWord.OTHER_JOB,
    SourceWord.RUNNING,
    SourceWord.PAUSED,
    SourceWord.HELD,
}
MAY_RUN_ON_DEST = {DestWord.UNREACHABLE, DestWord.INCOMING, DestWord.ACTIVE}
CELLS = [
    (phase, source, dest, table[source][list(DestWord).index(dest)])
    for phase, table in TABLES.items()
    for source, dest in itertools.product(SourceWord, DestWord)
]


def test_law_resume_only_where_the_destination_was_asked_and_has_nothing():
    resumed = {(phase, source, dest) for phase, source, dest, action in CELLS if action is Action.RESUME}
    assert resumed == {(Phase.MOVING, SourceWord.PAUSED, DestWord.ABSENT)}


@pytest.mark.parametrize(("phase", "source", "dest", "action"), CELLS)
def test_law_no_answer_can_run_a_guest_twice_or_free_what_it_runs_on(phase, source, dest, action):
    if action in {Action.ROLL_BACK, Action.CANCELLED} and dest in MAY_RUN_ON_DEST:
        assert (phase, dest) == (Phase.BEFORE, DestWord.UNREACHABLE), "the destination's claim would be freed under it"
    if action is Action.FINISH and source in MAY_RUN_ON_SOURCE:
        assert (phase, source) == (Phase.CONFIRMED, SourceWord.UNREACHABLE), (
            "the source's claim would be freed under it"
        )
    if source is SourceWord.UNREACHABLE and phase is not Phase.CONFIRMED:
        assert action is Action.WAIT, "nothing is concluded from silence"
    if phase in {Phase.SWITCHED, Phase.CONFIRMED}:
        assert action in {Action.FINISH, Action.WAIT, Action.NEEDS_PERSON}, "there is no way back"
    if action is Action.ADOPT:
        assert source is SourceWord.JOB
    if source is SourceWord.POSTCOPY:
        assert action in {Action.WAIT, Action.NEEDS_PERSON}, "half of its memory is on either side"


sights = st.one_of(
    st.none(),
    st.just(SILENT),
    st.builds(
        seen,
        st.sampled_from(list(DomainState)),
        st.sampled_from(["", "booted", "migrated", "migration", "user", "crashed", "destroyed", "shutdown", "ioerror"]),
        mark=st.sampled_from([None, "", "m-1", "m-2"]),
    ),
)
migrations = st.builds(
    migration,
    st.sampled_from(list(MigrationStatus)),
    st.sampled_from(["", "pre_live_migration", "live_migration", "post_live_migration", "update_available_resource"]),
)


@given(migrations, sights, st.sampled_from([None, JOB]), sights)
def test_law_decide_is_total_deterministic_and_agrees_with_its_table(one, source, job, dest):
    decision = decide(one, source, job, dest)
    assert decision == decide(one, source, job, dest)
    table = TABLES[phase_of(one)][source_word(source, job, one)][list(DestWord).index(dest_word(dest))]
    assert decision.action in {table, Action.NEEDS_PERSON}
    assert all(text in decision.sentence for text in decision.evidence)


class World:
    """The smallest world in which an answer can do harm: who runs the guest, and who may be asked."""

    def __init__(self, source_state, dest_state):
        self.source, self.dest = source_state, dest_state

    def apply(self, action):
        if action is Action.RESUME and self.source == "paused":
            self.source = "running"


@given(
    st.sampled_from(["running", "paused", "shutoff", None]),
    st.sampled_from(["running", "paused", "shutoff", None]),
    st.booleans(),
    st.booleans(),
    migrations,
)
def test_law_in_no_world_does_an_answer_make_two_hosts_run_the_guest(source, dest, hide_source, hide_dest, one):
    def sight(state, hidden):
        if hidden:
            return SILENT
        return None if state is None else seen(state, "migration")

    world = World(source, dest)
    both_before = source == dest == "running"
    world.apply(decide(one, sight(source, hide_source), None, sight(dest, hide_dest)).action)
    assert both_before or (world.source, world.dest) != ("running", "running")
