"""Other shapes of cases before a judge that shares no line with the project: same verdicts, valid placements."""

import random
from collections import Counter

import pytest
from other_shapes import case
from second_opinion import faults, verdict

from numaferry.service.cases import run_case


@pytest.mark.parametrize("seed", range(8))
def test_a_second_judge_agrees_on_cases_of_other_shapes(seed):
    rng = random.Random(seed)  # noqa: S311  (cases, not secrets)
    seen = Counter()
    for number in range(150):
        one = case(rng, number)
        answer = run_case(one)
        seen[answer["verdict"]] += 1
        if answer["verdict"] == "invalid":
            assert answer["error"] == "InvalidMixedInstanceDedicatedMask", one["guest"]
            continue
        assert answer["verdict"] == verdict(one), one
        assert answer["verdict"] == "nofit" or faults(one, answer) == [], (one, answer)
    assert seen["fits"] > 10
    assert seen["nofit"] > 50
