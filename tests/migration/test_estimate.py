"""Laws of the estimate: what is fitted, and what pre-copy does with it."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numaferry.migration.dirtying import HotSet, hot_set
from numaferry.migration.estimate import FIXED_S, Ending, Way, forecast, naive_s
from numaferry.model import DirtySample, MigrationPolicy, OnTimeout, PostCopy

MIB, GIB = 1 << 20, 1 << 30
PERIODS = (1, 1, 2, 4)
QUIET = HotSet(0.0, 0.0)


def measured(rate_mib_s, size_mib):
    """Exact measurements of a guest that goes round a hot set."""
    return [DirtySample(float(one), min(rate_mib_s * one, size_mib) * MIB) for one in PERIODS]


def way(memory_mib=1024, mib_s=100):
    return Way(memory_mib * MIB, float(mib_s * MIB))


def go(hot=QUIET, to=None, **policy):
    return forecast(to or way(), hot, MigrationPolicy(**policy), 1 << 20)


def test_a_guest_that_goes_round_a_small_set_is_seen_as_that():
    hot = hot_set(measured(100, 150), 4 * GIB)
    assert hot.rate_bps == pytest.approx(100 * MIB)
    assert hot.size_bytes == pytest.approx(150 * MIB)


def test_a_guest_that_writes_everywhere_has_all_its_memory_for_a_hot_set():
    assert hot_set(measured(50, 100_000), 4 * GIB) == HotSet(50.0 * MIB, 4.0 * GIB)


def test_a_few_sampled_pages_more_or_less_are_no_hot_set():
    """Two pages of a thousand sampled: noise, from which nothing smaller than the memory is concluded."""
    seen = [DirtySample(1.0, 4 * MIB), DirtySample(1.0, 6 * MIB), DirtySample(2.0, 8 * MIB), DirtySample(4.0, 12 * MIB)]
    assert hot_set(seen, GIB).size_bytes == GIB


def test_nothing_measured_is_an_error_and_no_quiet_guest():
    with pytest.raises(ValueError, match="at least one"):
        hot_set([], GIB)


def test_a_quiet_guest_takes_its_memory_by_the_bandwidth():
    found = go()
    assert found.converges
    assert found.duration_s == pytest.approx(1024 / 100 + FIXED_S, rel=0.01)
    assert found.passes == 1


def test_a_guest_that_writes_faster_than_it_is_sent_never_arrives_without_help():
    found = go(HotSet(150.0 * MIB, 1.0 * GIB))
    assert (found.ending, found.duration_s) == (Ending.NEVER, None)


def test_a_hot_set_that_fits_into_the_pause_arrives_however_fast_it_is_written():
    found = go(HotSet(1000.0 * MIB, 20.0 * MIB))
    assert found.converges
    assert found.downtime_ms <= 500


def test_the_downtime_limit_of_the_policy_is_what_a_hot_set_has_to_fit_into():
    hot = HotSet(1000.0 * MIB, 80.0 * MIB)
    assert not go(hot).converges
    assert go(hot, downtime_ms=900).converges


def test_post_copy_ends_after_the_passes_that_the_policy_names():
    hot = HotSet(150.0 * MIB, 1.0 * GIB)
    found = go(hot, post_copy=PostCopy.AUTOMATIC, post_copy_after_iterations=2)
    assert (found.ending, found.passes) == (Ending.POST_COPY, 2)
    assert found.duration_s == pytest.approx(FIXED_S + 3 * 1024 / 100, rel=0.05)


def test_auto_converge_slows_the_guest_until_it_arrives():
    hot = HotSet(150.0 * MIB, 1.0 * GIB)
    found = go(hot, auto_converge=True)
    assert found.converges
    assert found.throttle >= 40


@pytest.mark.parametrize(
    ("action", "post_copy", "ending"),
    [
        (OnTimeout.ABORT, PostCopy.NEVER, Ending.ABORTED),
        (OnTimeout.PAUSE, PostCopy.NEVER, Ending.PAUSED),
        (OnTimeout.POST_COPY, PostCopy.ON_DEMAND, Ending.POST_COPY),
    ],
)
def test_at_the_timeout_the_policys_action_ends_it(action, post_copy, ending):
    found = go(HotSet(150.0 * MIB, 1.0 * GIB), completion_timeout_s=60, on_timeout=action, post_copy=post_copy)
    assert found.ending is ending
    assert found.duration_s >= 60
    assert (found.duration_s == 60) == (ending is Ending.ABORTED)


def test_a_timeout_that_comes_first_ends_what_would_have_arrived():
    assert go(completion_timeout_s=5).ending is Ending.ABORTED


def test_without_a_bandwidth_nothing_is_said():
    with pytest.raises(ValueError, match="moves nothing"):
        go(to=Way(GIB, 0.0))


hot_sets = st.builds(HotSet, st.floats(0, 4e9), st.floats(0, 16e9))
ways = st.builds(Way, st.integers(0, 64 * GIB), st.floats(1e6, 4e9))
policies = st.builds(
    MigrationPolicy,
    downtime_ms=st.integers(1, 5000),
    downtime_steps=st.integers(1, 20),
    auto_converge=st.booleans(),
    post_copy=st.sampled_from(PostCopy),
    completion_timeout_s=st.sampled_from([0, 1, 60, 3600]),
    on_timeout=st.sampled_from(OnTimeout),
)


@given(ways, hot_sets, policies)
def test_law_no_migration_is_faster_than_its_memory_by_its_bandwidth(to, hot, policy):
    found = forecast(to, hot, policy, 1 << 20)
    if found.converges:
        assert found.duration_s >= naive_s(to)


@given(ways, hot_sets, policies)
def test_law_a_pause_is_never_longer_than_the_policy_allows_where_it_ends_by_itself(to, hot, policy):
    found = forecast(to, hot, policy, 1 << 20)
    if found.converges:
        assert found.downtime_ms <= max(300, policy.downtime_ms)


@given(ways, hot_sets, st.floats(1, 100))
def test_law_more_bandwidth_never_makes_an_arrival_later(to, hot, times):
    policy = MigrationPolicy(downtime_steps=1)
    before, after = (
        forecast(one, hot, policy, 1 << 20) for one in (to, attrs.evolve(to, bandwidth_bps=to.bandwidth_bps * times))
    )
    if before.converges:
        assert after.converges
        assert after.duration_s <= before.duration_s * 1.01 + 0.1
