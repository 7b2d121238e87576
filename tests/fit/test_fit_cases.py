"""Whole files of cases in the neutral format: every verdict as expected, every placement valid by the checker."""

import json
from pathlib import Path

import pytest
from checker import violations

from numaferry.errors import InvalidInput
from numaferry.fit import cases
from numaferry.request import numa_get_constraints
from numaferry.service.cases import run_case, run_cases

OWN = Path(__file__).parent / "cases.jsonl"
SHARED = Path(__file__).parents[2].parent / "shared" / "cases" / "fit_cases.jsonl"
FILES = [OWN, *([SHARED] if SHARED.exists() else [])]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_verdict_is_as_expected_and_every_placement_valid(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    wrong = []
    for case, answer in zip(map(json.loads, lines), run_cases(path), strict=True):
        expected = case["expected"]
        if (answer["id"], answer["verdict"], answer.get("error")) != (
            case["id"],
            expected["verdict"],
            expected.get("error"),
        ):
            wrong.append((case["id"], expected, answer))
        if answer["verdict"] == "fits":
            request = numa_get_constraints(cases.flavor_of(case), aliases=cases.ALIASES)
            wrong += [(case["id"], broken) for broken in violations(cases.host_of(case), request, answer)]
        else:
            assert answer["reasons"]
    assert wrong == []


def test_an_answer_is_one_json_line_of_the_format():
    for answer in run_cases(OWN):
        assert set(answer) - {"error"} == {"id", "verdict", "cells", "pci", "reasons"}
        assert ("error" in answer) == (answer["verdict"] == "invalid")
        assert json.loads(json.dumps(answer)) == answer
        for cell in answer["cells"]:
            assert set(cell) == {"guest_cell", "host_cell", "pins", "emulator_pcpus", "page_kb"}


def test_an_emulators_cpu_is_told_on_guest_cell_0_only():
    lines = map(json.loads, OWN.read_text(encoding="utf-8").splitlines())
    isolated = [case for case in lines if case["guest"]["extra_specs"].get("hw:emulator_threads_policy") == "isolate"]
    fitting = [answer for answer in map(run_case, isolated) if answer["verdict"] == "fits"]
    assert fitting
    for answer in fitting:
        assert [len(cell["emulator_pcpus"]) for cell in answer["cells"]] == [1] + [0] * (len(answer["cells"]) - 1)


def test_a_line_that_is_no_case_is_named_by_its_number(tmp_path):
    path = tmp_path / "broken.jsonl"
    path.write_text('\n{"id": 1}\n', encoding="utf-8")
    with pytest.raises(InvalidInput, match=r"broken\.jsonl:2: not a fit case: KeyError: 'guest'"):
        list(run_cases(path))
    with pytest.raises(InvalidInput, match="can't read the cases"):
        list(run_cases(tmp_path / "missing.jsonl"))
