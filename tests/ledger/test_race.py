"""Controllers race for one host: what is there is given away once, who gets nothing is told why, and figures add up."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import pytest

from numaferry.model import CpuSet
from numaferry.model.codec import dumps

#: What each controller does: wait for the starting shot, make its claims in several threads, print how each ended. Any
#: error that is not named here ends it with a traceback.
RACER = """
import sys
from concurrent.futures import ThreadPoolExecutor
from numaferry.errors import Conflict, NoFit
from numaferry.ledger import open_ledger
from numaferry.model import Instance
from numaferry.model.codec import dumps, loads

url, threads, *candidates = sys.argv[1:]
ledger = open_ledger(url)
guests = [loads(line, Instance) for line in iter(sys.stdin.readline, "\\n")]
print("ready", flush=True)
sys.stdin.readline()

def claim(guest):
    try:
        if guest.host:
            claim = ledger.live_migration_claim(guest.uuid, candidates)
            host, topology = claim.migration.dest, claim.placement.numa_topology
        else:
            claim = ledger.place_instance(guest, candidates)
            host, topology = claim.instance.host, claim.instance.numa_topology
        return [guest.name, host, str(topology.owned_cpus)]
    except NoFit as error:
        assert [misfit.host for misfit in error.misfits] == candidates and all(m.reason for m in error.misfits)
        return [guest.name, "no fit", ""]
    except Conflict as error:
        assert "being moved" in str(error)
        return [guest.name, "conflict", ""]

with ThreadPoolExecutor(int(threads)) as pool:
    print(dumps(list(pool.map(claim, guests))))
ledger.close()
"""


def race(url, shares, candidates, threads=1):
    """Start a process per share of guests, let them go at once, and return (guest, host or why not, CPUs) of each."""
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, url, str(threads), *candidates],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in shares
    ]
    for racer, guests in zip(racers, shares, strict=True):
        racer.stdin.write("".join(f"{dumps(guest)}\n" for guest in guests) + "\n")
        racer.stdin.flush()
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    answers = []
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        answers += json.loads(racer.communicate(timeout=120)[0])
    assert [racer.returncode for racer in racers] == [0] * len(racers)
    return [tuple(answer) for answer in answers]


CROWD = {"db1": "2-3", "db2": "4-5", "db3": "6-7"}


@pytest.fixture
def crowded(fleet, make):
    """Three guests on A that want two CPUs each, and B with two dedicated CPUs left."""
    fleet.confirm_host("B", make.config(dedicated="4-5"))
    return [[fleet.claim_instance(make.guest(name, "A", cpus)).instance] for name, cpus in CROWD.items()]


def test_the_last_cpus_go_to_one_of_those_who_race_for_them(fleet, where, crowded):
    answers = race(where, crowded, ["B"])
    assert sorted(answer[1:] for answer in answers) == [("B", "4-5"), ("no fit", ""), ("no fit", "")]
    assert [str(holding.cpu_set) for holding in fleet.view("B").holdings] == ["4-5"]
    assert len(fleet.migrations()) == 1


def test_who_loses_goes_to_the_next_candidate(fleet, make, where, crowded):
    make.host(fleet, "C", dedicated="2-3,6-7")
    answers = race(where, crowded, ["B", "C"])
    assert sorted(answer[1] for answer in answers) == ["B", "C", "C"]
    assert sorted(answer[2] for answer in answers) == ["2-3", "4-5", "6-7"]


def test_hundreds_of_claims_of_two_controllers_for_one_host(ledger, make, where, sql):
    """Guests that are placed and guests that move, the latter wanted by both controllers; room for some of them."""
    make.host(ledger, "A", notation="2 cells x 8 cores x 2 threads, 8G, 2M:1024", dedicated="2-31")
    make.host(ledger, "B", notation="2 cells x 16 cores x 2 threads, 8G, 2M:1024", dedicated="2-63")
    pairs = [f"{cpu}-{cpu + 1}" for cpu in range(2, 32, 2)]
    moving = [
        ledger.claim_instance(make.guest(f"move-{cpus}", "A", cpus, cell=int(cpus.split("-")[0]) // 16)).instance
        for cpus in pairs
    ]
    new = [make.instance(f"new-{number}", "", make.request(), None) for number in range(200)]
    shares = [[*moving, *new[:100]], [*reversed(moving), *new[100:]]]
    answers = race(where, shares, ["B"], threads=8)

    ended = Counter(where for _, where, _ in answers)
    assert sum(ended.values()) == 230
    assert ended["B"] == 31, "62 dedicated CPUs, two for each"
    assert ended["conflict"] <= len(moving)
    promised = CpuSet()
    for _, host, cpus in answers:
        if host == "B":
            assert promised.isdisjoint(CpuSet.parse(cpus))
            promised |= CpuSet.parse(cpus)
    assert promised == CpuSet.parse("2-63")

    held = {holding.instance_name: str(holding.cpu_set) for holding in ledger.view("B").holdings}
    assert held == {name: cpus for name, host, cpus in answers if host == "B"}
    assert len(ledger.migrations()) == sum(name.startswith("move-") for name in held)
    assert {instance.name for instance in ledger.instances("B")} == {name for name in held if name.startswith("new-")}
    used = "SELECT used FROM capacity JOIN host ON host.id = host_id WHERE name = 'B' AND resource = 'page:2048'"
    assert [row[0] for row in sql.execute(f"{used} ORDER BY cell")] == [
        sum(one.amount for holding in ledger.view("B").holdings for one in holding.amounts if one.cell == cell)
        for cell in (0, 1)
    ]
    assert sql.one("SELECT count(*) FROM event WHERE kind IN ('placed', 'move-claimed')") == 31
