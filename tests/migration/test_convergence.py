"""The schedule of a job as data, and a job driven by it on the simulated fleet."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numaferry.errors import CheckFailed, Conflict, MigrationFailed, NeedsPerson
from numaferry.migration.convergence import QEMU_DOWNTIME_MS, Action, Course, advise, schedule, told
from numaferry.migration.policy_checks import check_policy
from numaferry.model import JobInfo, MigrationPolicy, MigrationStatus, OnTimeout, PolicyWish, PostCopy, policy_of
from numaferry.service import moves
from numaferry.service.discovery import Reach

MIB = 1 << 20
policies = st.builds(
    MigrationPolicy,
    downtime_ms=st.integers(1, 5000),
    downtime_steps=st.integers(1, 100),
    post_copy=st.sampled_from(PostCopy),
    post_copy_after_iterations=st.integers(1, 50),
    completion_timeout_s=st.sampled_from([0, 30]),
    on_timeout=st.sampled_from(OnTimeout),
)


def job(iteration, processed_mib=1, remaining_mib=50):
    return JobInfo(
        memory_total_bytes=100 * MIB,
        memory_processed_bytes=processed_mib * MIB,
        memory_remaining_bytes=remaining_mib * MIB,
        memory_iteration=iteration,
    )


# the schedule


@given(policy=policies)
def test_law_the_downtime_limit_goes_one_way_and_ends_at_the_policys(policy):
    limits = [QEMU_DOWNTIME_MS, *(turn.value for turn in schedule(policy) if turn.action is Action.MAX_DOWNTIME)]
    assert limits[-1] == policy.downtime_ms
    rises = limits[1:]
    assert rises == sorted(rises)
    assert all(value <= policy.downtime_ms for value in rises)


@given(policy=policies)
def test_law_post_copy_is_scheduled_exactly_where_it_is_automatic(policy):
    assert any(turn.action is Action.POST_COPY for turn in schedule(policy)) == (policy.post_copy is PostCopy.AUTOMATIC)


@given(policy=policies, iterations=st.lists(st.integers(0, 120), min_size=1, max_size=30))
def test_law_no_row_is_done_twice_and_nothing_after_a_forced_end(policy, iterations):
    course, done = Course(), []
    for second, iteration in enumerate(sorted(iterations)):
        advice = advise(policy, 1 << 20, course.observe(job(iteration, second), float(second)), float(second))
        course = advice.course
        done += advice.turns
    ends = [at for at, turn in enumerate(done) if turn.action is not Action.MAX_DOWNTIME]
    assert ends in ([], [len(done) - 1])
    values = [turn.value for turn in done if turn.action is Action.MAX_DOWNTIME]
    assert len(values) == len(set(values))


def test_the_built_in_policy_raises_the_pause_from_qemus_to_500_ms():
    rows = [(turn.iteration, turn.value) for turn in schedule(MigrationPolicy())]
    assert rows[0] == (2, 322)
    assert rows[-1] == (10, 500)


def test_a_job_that_moves_no_byte_is_given_up_whatever_its_iteration():
    course = Course().observe(job(1), 0.0)
    for second in range(1, 60):
        course = course.observe(job(second, processed_mib=1), float(second))
        turns = advise(MigrationPolicy(), 1, course, float(second)).turns
        assert Action.ABORT not in {turn.action for turn in turns}
    course = course.observe(job(60), 60.0)
    [turn] = advise(MigrationPolicy(), 1, course, 60.0).turns
    assert (turn.action, turn.why) == (Action.ABORT, "no byte was moved for 60 s")


@pytest.mark.parametrize("on_timeout", list(OnTimeout))
def test_a_migration_that_does_not_end_in_time_is_dealt_with_as_the_policy_says(on_timeout):
    policy = MigrationPolicy(completion_timeout_s=10, completion_timeout_s_per_gib=5, on_timeout=on_timeout)
    course = Course().observe(job(1, 1), 0.0).observe(job(1, 2), 19.0)
    assert advise(policy, 2 << 20, course, 19.0).turns == ()
    [turn] = advise(policy, 2 << 20, course, 20.0).turns
    assert turn.action == {"abort": Action.ABORT, "post-copy": Action.POST_COPY, "pause": Action.PAUSE}[on_timeout]
    assert "has not ended in 20 s" in told(turn, course)


def test_an_adopted_job_is_judged_by_when_it_began_not_by_when_it_was_adopted():
    policy = MigrationPolicy(completion_timeout_s=100)
    course = Course().observe(attrs.evolve(job(3), time_elapsed_ms=99_000), 5.0)
    assert not [turn for turn in advise(policy, 1, course, 5.0).turns if turn.action is Action.ABORT]
    assert advise(policy, 1, course, 6.5).turns[0].action is Action.ABORT


def test_layers_of_a_policy_win_field_by_field():
    policy = policy_of(
        PolicyWish.of(downtime_ms=100, auto_converge=True), PolicyWish.of(downtime_ms=200, post_copy="on-demand")
    )
    assert (policy.downtime_ms, policy.auto_converge, policy.post_copy) == (200, True, PostCopy.ON_DEMAND)
    with pytest.raises(TypeError, match="no field 'speed'"):
        PolicyWish.of(speed=1)


# what can't be done


@pytest.mark.parametrize(
    ("policy", "versions", "reason"),
    [
        ({"parallel_connections": 2, "post_copy": PostCopy.ON_DEMAND}, (12_000_000, 10_000_000), "needs QEMU 10.1.0"),
        ({"parallel_connections": 2, "post_copy": PostCopy.ON_DEMAND}, (12_000_000, 10_001_000), ""),
        ({"parallel_connections": 2, "compression": "zstd"}, (9_000_000, 7_002_000), "needs libvirt 9.4.0"),
        ({"parallel_connections": 2, "compression": "xbzrle"}, (12_000_000, 10_001_000), "can't be combined"),
        ({"compression": "zstd"}, (12_000_000, 10_001_000), "can't be combined"),
        ({"compression": "mt"}, (12_000_000, 9_001_000), "a version before 9.1.0"),
        ({"compression": "mt"}, (9_000_000, 7_002_000), ""),
        ({"on_timeout": OnTimeout.POST_COPY}, (12_000_000, 10_001_000), "post_copy = never"),
    ],
)
def test_what_a_libvirt_or_qemu_cant_do_is_said(site, policy, versions, reason):
    facts = attrs.evolve(site.hypervisor("alpha").facts(), libvirt_version=versions[0], hypervisor_version=versions[1])
    checks = check_policy(MigrationPolicy(**policy), facts, facts, "beta")
    assert all((reason in check.reason) if reason else (check.outcome == "ok") for check in checks)


def test_a_policy_that_cant_be_had_is_refused_before_anything_is_claimed(site):
    site.guest()
    with pytest.raises(CheckFailed, match="can't be combined"):
        site.engine().start(site.ledger.instance("db1"), "beta", MigrationPolicy(compression="zstd"))
    assert site.ledger.migrations() == ()


# driven on the fleet


def busy(site, factor):
    """A guest that dirties memory `factor` times as fast as the link of 64 MiB/s carries it; looks see each pass."""
    site.fleet.pace_s = 0.002
    uuid = site.guest()
    site.fleet.dirty_mib_s[uuid] = int(64 * factor)
    return uuid


def test_auto_converge_makes_a_guest_converge_that_would_not(site):
    uuid = busy(site, 1.3)
    engine = site.engine()
    policy = MigrationPolicy(bandwidth_mib_s=64, auto_converge=True)
    engine.drive(engine.start(site.ledger.instance("db1"), "beta", policy).id)
    site.settled(uuid, moved=True)


def test_a_longer_pause_lets_a_busy_guest_switch_and_each_step_is_told(site):
    uuid = busy(site, 0.9)
    engine = site.engine()
    policy = MigrationPolicy(bandwidth_mib_s=64, downtime_ms=3000, downtime_steps=3)
    engine.drive(engine.start(site.ledger.instance("db1"), "beta", policy).id)
    site.settled(uuid, moved=True)
    steps = [sentence for sentence in site.sentences() if "set the downtime limit to" in sentence]
    assert steps
    assert "iteration 2: set the downtime limit to 1650 ms: step 2 of 3, 3000 ms in the end" in steps[0]


def test_a_job_that_does_not_end_in_time_is_aborted_and_rolled_back(site):
    uuid = busy(site, 2)
    engine = site.engine()
    policy = MigrationPolicy(bandwidth_mib_s=64, completion_timeout_s=20)
    migration = engine.start(site.ledger.instance("db1"), "beta", policy)
    with pytest.raises(MigrationFailed):
        engine.drive(migration.id)
    site.settled(uuid, moved=False)
    assert site.ledger.migration(migration.id).status is MigrationStatus.FAILED
    assert any("abort: it has not ended in 20 s" in sentence for sentence in site.sentences())


def test_a_pause_at_the_timeout_ends_it(site):
    uuid = busy(site, 2)
    engine = site.engine()
    policy = MigrationPolicy(bandwidth_mib_s=64, completion_timeout_s=5, on_timeout=OnTimeout.PAUSE)
    engine.drive(engine.start(site.ledger.instance("db1"), "beta", policy).id)
    site.settled(uuid, moved=True)


def test_a_person_forces_the_end_of_a_running_one(site):
    uuid = busy(site, 2)
    asked = []

    def ask(migration, job):
        if job is not None and job.memory_iteration >= 2 and not asked:
            asked.append(site.ledger.request_force_complete(migration.id, "pause"))

    engine = site.engine(on_progress=ask)
    engine.drive(engine.start(site.ledger.instance("db1"), "beta", MigrationPolicy(bandwidth_mib_s=64)).id)
    assert asked
    site.settled(uuid, moved=True)
    assert any("pause the guest: a person wants it" in sentence for sentence in site.sentences())


def test_what_libvirt_refuses_is_told_and_the_job_goes_on(site):
    uuid = busy(site, 0.9)
    site.fleet.inject("call.set_max_downtime", "refuse")
    engine = site.engine()
    policy = MigrationPolicy(bandwidth_mib_s=64, downtime_ms=3000, downtime_steps=3)
    engine.drive(engine.start(site.ledger.instance("db1"), "beta", policy).id)
    site.settled(uuid, moved=True)
    assert any("set the downtime limit was refused" in sentence for sentence in site.sentences())


# post-copy: both hosts are needed until its end


def postcopy_now(site, **more):
    """A busy guest whose job has just switched to post-copy; returns its UUID, the engine and the migration's id."""
    uuid = busy(site, 2)
    engine = site.engine(**more)
    policy = MigrationPolicy(bandwidth_mib_s=64, post_copy=PostCopy.AUTOMATIC, post_copy_after_iterations=2)
    return uuid, engine, engine.start(site.ledger.instance("db1"), "beta", policy).id


def test_post_copy_after_so_many_passes_ends_it(site):
    uuid, engine, number = postcopy_now(site)
    assert engine.drive(number).status is MigrationStatus.COMPLETED
    site.settled(uuid, moved=True)
    assert any("switch to post-copy: 2 passes over the memory did not end it" in one for one in site.sentences())


def test_a_post_copy_whose_network_breaks_is_a_persons_matter_with_both_claims_held(site):
    seen = []

    def cut(migration, job):
        if site.fleet.running_on(migration.instance_uuid) == ("beta",) and job is not None and not seen:
            seen.append(job)
            site.fleet.cut("alpha", "beta")

    uuid, engine, number = postcopy_now(site, on_progress=cut)
    with pytest.raises(NeedsPerson, match="postcopy-failed"):
        engine.drive(number)
    assert seen
    assert site.ledger.migration(number).status is MigrationStatus.ERROR
    assert set(site.holders(uuid)) == {"alpha", "beta"}
    assert site.fleet.lives[uuid].twice_s == 0


def test_an_abort_in_post_copy_is_answered_with_the_truth(site):
    said = []

    def abort(migration, job):
        if site.fleet.running_on(migration.instance_uuid) == ("beta",) and job is not None and not said:
            reach = Reach(lambda uri: site.hypervisor(uri.rpartition("/")[2]))
            with pytest.raises(Conflict, match="is in post-copy and runs on beta: there is no way back"):
                moves.abort(site.ledger, reach, str(migration.id))
            said.append(migration)

    uuid, engine, number = postcopy_now(site, on_progress=abort)
    assert engine.drive(number).status is MigrationStatus.COMPLETED
    assert said
    site.settled(uuid, moved=True)
