"""Two processes want the last CPUs of one host: one gets them, the other is told, and nothing is promised twice."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

#: What each racer does: wait for the starting shot, then claim; it prints where it went or why not.
RACER = """
import json, sys
from numaferry.errors import NoFit
from numaferry.ledger import open_ledger
path, uuid, *candidates = sys.argv[1:]
ledger = open_ledger(path)
print("ready", flush=True)
sys.stdin.readline()
try:
    claim = ledger.live_migration_claim(uuid, candidates)
    print(json.dumps({"dest": claim.migration.dest, "cpus": str(claim.placement.numa_topology.owned_cpus)}))
except NoFit as error:
    print(json.dumps({"dest": None, "reasons": [misfit.reason for misfit in error.misfits]}))
"""


def race(path, guests, candidates):
    """Start a process per guest, let them go at once, and return what each printed."""
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(path), guest.uuid, *candidates],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for guest in guests
    ]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    answers = [json.loads(racer.communicate(timeout=60)[0]) for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * len(racers)
    return answers


@pytest.fixture
def crowded(fleet, make):
    """Three guests on A that want two CPUs each, and B with two dedicated CPUs left."""
    fleet.confirm_host("B", make.config(dedicated="4-5"))
    return [fleet.claim_instance(make.guest(name, "A", cpus)).instance for name, cpus in CROWD.items()]


CROWD = {"db1": "2-3", "db2": "4-5", "db3": "6-7"}


def test_the_last_cpus_go_to_one_of_those_who_race_for_them(fleet, path, crowded):
    answers = race(path, crowded, ["B"])
    winners = [answer for answer in answers if answer["dest"]]
    assert [winner["cpus"] for winner in winners] == ["4-5"]
    assert all(answer["reasons"] for answer in answers if not answer["dest"])
    assert [str(holding.cpu_set) for holding in fleet.view("B").holdings] == ["4-5"]
    assert len(fleet.migrations()) == 1


def test_who_loses_goes_to_the_next_candidate(fleet, make, path, crowded):
    make.host(fleet, "C", dedicated="2-3,6-7")
    answers = race(path, crowded, ["B", "C"])
    assert sorted(answer["dest"] for answer in answers) == ["B", "C", "C"]
    assert sorted(answer["cpus"] for answer in answers) == ["2-3", "4-5", "6-7"]
