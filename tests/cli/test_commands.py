"""The commands on a simulated fleet, from the first scan to the last audit."""

import io
import json
import sys

import pytest
from cli_world import FLOATER, HOSTS_TOML, guest_xml

from numaferry.cli import app
from numaferry.model import CpuSet


@pytest.fixture
def fleet(world):
    world.fleet.start_guest("alpha", guest_xml("db1", [2, 6], [0, 1]))
    world.fleet.start_guest("beta", guest_xml("noisy1", [2, 6], [0, 1], link="enp7s0"))
    world.manage()
    return world


def pins(shown):
    return {vcpu: cpu for cell in shown["numa_topology"]["cells"] for vcpu, cpu in cell["cpu_pinning"]}


def test_a_scan_needs_no_ledger_and_leaves_nothing_behind(world):
    world.fleet.start_guest("alpha", guest_xml("db1", [2, 6], [0, 1]))
    world.fleet.start_guest("alpha", guest_xml("db2", [2, 7], [1, 1]))
    world.fleet.start_guest("beta", FLOATER)
    before = world.reality()
    report = world.told("scan", "sim://cli/alpha", "sim://cli/beta")
    assert world.reality() == before
    assert not (world.folder / "ledger.sqlite").exists()
    assert {(one["kind"], one["host"]): one["sentence"] for one in report["findings"]} == {
        ("double-pin", "alpha"): "db1 and db2 are both pinned to CPU 2",
        ("misplaced", "alpha"): "cell 0 of db2 runs on host cell 0 with its memory on 1 (mode strict)",
    }
    moves = {(one["guest"], one["dest"]): one["fits"] for one in report["moves"]}
    assert moves["db1", "beta"] is True
    assert report["hosts"][0]["proposal"]["cpu_dedicated_set"] == "2-7"
    text = world.ok("scan", "sim://cli/alpha", "sim://cli/beta", "--pictures")
    assert "db1 and db2 are both pinned to CPU 2" in text
    assert "A!B" in text


def test_a_host_without_config_is_proposed_then_confirmed_with_other_sets(world):
    shown = world.told("host", "add", "sim://cli/alpha", "--isolated", "4-7")
    assert (shown["confirmed"], shown["config"]["cpu_dedicated_set"]) == (False, "4-7")
    assert shown["proposal"]["verdicts"][4]["why"] == "isolated from the scheduler"
    picture = world.ok("topology", "alpha")
    assert "sets not confirmed" in picture
    assert "4 ·" in picture
    assert "2 ~" in picture
    assert "host confirm alpha" in world.ok("host", "show", "alpha")
    confirmed = world.told("host", "confirm", "alpha", "--dedicated", "2-7")
    assert (confirmed["confirmed"], confirmed["config"]["cpu_dedicated_set"]) == (True, "2-7")
    assert confirmed["config"]["cpu_shared_set"] == "0-1"
    assert "numaferry host confirm" not in world.ok("host", "show", "alpha")


def test_cpus_for_migrations_are_named_shown_and_taken_back(world):
    world.ok("host", "import", world.toml())
    assert "0-1 (the shared set)" in world.ok("host", "show", "alpha")
    assert world.told("host", "confirm", "alpha", "--migration", "0")["config"]["migration_cpu_set"] == "0"
    assert "(the shared set)" not in world.ok("host", "show", "alpha")
    assert world.told("host", "confirm", "alpha", "--migration", "")["config"]["migration_cpu_set"] == ""
    ran = world.run("host", "confirm", "alpha", "--migration", "1-2")
    assert ran.code == 2
    assert "CPU 2 of alpha is in cpu_dedicated_set and in migration_cpu_set" in ran.err


def test_cpus_for_migrations_are_not_proposed_as_dedicated(world):
    entry = '[[host]]\nname = "alpha"\nuri = "sim://cli/alpha"\nmigration_cpu_set = "7"\n'
    (shown,) = world.told("host", "import", world.toml(entry))
    assert (shown["confirmed"], shown["config"]["cpu_dedicated_set"]) == (False, "2-6")


def test_an_entry_with_sets_is_confirmed_and_importing_again_changes_them(world):
    world.ok("host", "import", world.toml())
    shown = world.told("host", "import", world.toml(HOSTS_TOML.replace('"2-7"', '"4-7"')))
    assert [one["config"]["cpu_dedicated_set"] for one in shown] == ["4-7", "4-7"]


def test_a_host_is_added_with_its_entry_of_a_file(world):
    shown = world.told("host", "add", "sim://cli/beta", "--name", "beta", "--config", world.toml())
    assert shown["confirmed"]
    assert shown["config"]["physical_networks"] == [["physnet0", "enp7s0"]]


def test_adopting_is_shown_before_it_is_done(world):
    world.fleet.start_guest("alpha", guest_xml("db1", [2, 6], [0, 1]))
    world.fleet.start_guest("alpha", FLOATER)
    world.fleet.define_guest("alpha", guest_xml("cold", [3], [0]))
    world.ok("host", "import", world.toml())
    before = world.reality()
    lines = {one["name"]: one for one in world.told("instance", "adopt", "--all", "--dry-run")}
    assert world.reality() == before
    assert (lines["db1"]["outcome"], lines["db1"]["promise"], lines["db1"]["cpus"]) == (
        "would be adopted",
        "kept",
        "2,6",
    )
    assert lines["web"]["promise"] == "floating"
    assert (lines["cold"]["outcome"], lines["cold"]["promise"]) == ("skipped", None)
    done = {one["name"]: one["outcome"] for one in world.told("instance", "adopt", "--all")}
    assert done == {"db1": "adopted", "web": "adopted", "cold": "skipped"}
    again = {one["name"]: one["outcome"] for one in world.told("instance", "adopt", "--all")}
    assert again["db1"] == "already adopted"


def test_a_forgotten_guest_runs_on_and_its_cpus_are_free(fleet):
    uuid = fleet.told("instance", "show", "db1")["uuid"]
    assert fleet.told("instance", "forget", "db1") == {"forgotten": "db1"}
    domain = fleet.fleet.hypervisor("alpha").domain(uuid)
    assert (domain.ownership, str(domain.state)) == (None, "running")
    assert not [row for row in fleet.told("ledger", "explain", "alpha")["cpus"] if row["instance"]]
    fleet.ok("host", "remove", "alpha")


def test_a_guest_on_contested_cpus_is_adopted_as_conflicted(world):
    world.fleet.start_guest("alpha", guest_xml("db1", [2, 6], [0, 1]))
    world.fleet.start_guest("alpha", guest_xml("db2", [2, 7], [0, 1]))
    world.ok("host", "import", world.toml())
    assert world.told("instance", "adopt", "db1", "--host", "alpha")[0]["promise"] == "conflicted"
    assert "A!B" in world.ok("topology", "alpha")


def test_a_move_is_planned_and_the_plan_touches_nothing(fleet):
    before = fleet.reality()
    text = fleet.ok("migrate", "db1", "--dry-run")
    plan = fleet.told("migrate", "db1", "--dry-run")
    virsh = fleet.ok("migrate", "db1", "--as-virsh", "--bandwidth", "7")
    assert fleet.reality() == before
    assert (plan["source"], plan["dest"]) == ("alpha", "beta")
    cells = plan["placement"]["numa_topology"]["cells"]
    assert {cpu for cell in cells for _, cpu in cell["cpu_pinning"]}.isdisjoint({2, 6})
    assert '-    <vcpupin vcpu="0" cpuset="2"/>' in text
    assert '+      <source dev="enp7s0" mode="bridge"/>' in text
    assert "pages" in {check["name"] for check in plan["checks"]}
    assert "virsh -c sim://cli/alpha migrate --live --p2p --xml db1-dest.xml --persistent" in virsh
    assert "--bandwidth 7 db1 sim://cli/beta" in virsh
    assert "Secrets" in virsh
    for said in (text, json.dumps(plan), virsh):
        assert "hunter2" not in said


def test_a_plan_shows_every_check_of_the_move_and_what_is_not_known_is_not_ok(fleet):
    checks = {one["name"]: one["outcome"] for one in fleet.told("migrate", "db1", "--dry-run")["checks"]}
    assert {"emulator", "machine", "cpu", "known-bad-version", "at-start", "policy"} <= checks.keys()
    assert (checks["machine"], checks["cpu"], checks["at-start"]) == ("ok", "unknown", "unknown")


def test_a_plan_shows_what_a_policy_is_refused_for(fleet):
    """The plan did not look at it: it was ok by the dry run, and refused by the move."""
    wish = ("migrate", "db1", "--parallel", "2", "--compression", "xbzrle")
    plan = fleet.told(*wish, "--dry-run")
    assert [one["outcome"] for one in plan["checks"] if one["name"] == "policy"] == ["fails"]


def test_a_move_does_what_its_plan_said(fleet):
    plan = fleet.told("migrate", "db1", "--dry-run")
    moved = fleet.told("migrate", "db1")
    assert moved["new_numa_topology"] == plan["placement"]["numa_topology"]
    assert moved["migration"]["status"] == "completed"
    shown = fleet.told("instance", "show", "db1")
    assert shown["host"] == "beta"
    domain = fleet.fleet.hypervisor("beta").domain(shown["uuid"])
    for cpu in pins(shown).values():
        assert f'cpuset="{cpu}"' in domain.xml
    assert fleet.fleet.hypervisor("alpha").domain(shown["uuid"]) is None


def test_the_move_is_told_line_by_line_where_no_terminal_is(fleet):
    ran = fleet.run("migrate", "db1", "--dest", "beta", "--bandwidth", "50")
    assert ran.code == 0
    assert "db1 moved from alpha to beta" in ran.out
    assert "read back on beta: 4 verified, 0 disagrees" in ran.out
    assert "update_available_resource on alpha: 0 findings in" in ran.out
    lines = ran.err.splitlines()
    assert lines[0] == "migration 1: db1 from alpha to beta, accepted"
    assert "migration 1: running live_migration" in lines
    assert "\x1b" not in ran.err + ran.out


def test_after_a_move_list_show_usage_and_ledger_agree(fleet):
    fleet.ok("migrate", "db1", "--dest", "beta")
    (line,) = fleet.told("migration", "list")
    assert (line["id"], line["instance"], line["status"]) == (1, "db1", "completed")
    shown = fleet.told("migration", "show", "1")
    assert (shown["old_vifs"][0]["source_dev"], shown["new_vifs"][0]["source_dev"]) == ("ens3", "enp7s0")
    assert any("read back on beta" in event["sentence"] for event in shown["events"])
    mine = set(pins(fleet.told("instance", "show", "db1")).values())
    rows = fleet.told("ledger", "explain", "beta")["cpus"]
    assert {row["cpu"] for row in rows if row["instance"] == "db1"} == mine
    assert not [row for row in fleet.told("ledger", "explain", "alpha")["cpus"] if row["instance"]]
    own = fleet.told("host", "usage", "beta")["cells"][0]["own"]
    assert own["pages"] == [[2048, 64]]
    assert fleet.told("migration", "list", "--in-progress") == []
    assert len(fleet.told("migration", "list", "--instance", "db1")) == 1
    assert "ens3 → enp7s0" in fleet.ok("migration", "show", "1")
    assert "migration 1 from alpha" in fleet.ok("ledger", "explain", "beta")
    assert "64 x 2M" in fleet.ok("host", "usage", "beta")
    assert "audited: alpha in" in fleet.ok("audit")


def test_why_a_guest_does_not_fit_is_explained_with_a_suggestion_that_is_true(fleet):
    for number, (cpu, cell) in enumerate(((3, 0), (5, 1), (7, 1))):
        fleet.fleet.start_guest("beta", guest_xml(f"full{number}", [cpu], [cell], link="enp7s0"))
    fleet.ok("instance", "adopt", "--all")
    (answer,) = fleet.told("explain", "db1", "beta")
    assert not answer["fits"]
    assert answer["misfit"]["shortages"]
    assert "fits if instance full0 leaves" in answer["misfit"]["suggestions"]
    text = fleet.ok("explain", "db1", "beta")
    assert "db1 does not fit on beta:" in text
    assert "fits if instance full0 leaves" in text
    fleet.ok("migrate", "full0", "--dest", "alpha")
    assert fleet.told("explain", "db1", "beta")[0]["fits"]


def test_what_runs_unmanaged_on_the_destination_is_not_claimed(fleet):
    fleet.fleet.start_guest("beta", guest_xml("stranger", [4], [1], link="enp7s0"))
    fleet.ok("migrate", "db1", "--dest", "beta")
    assert set(pins(fleet.told("instance", "show", "db1")).values()).isdisjoint({2, 4, 6})


def test_an_audit_finds_what_a_person_did_behind_the_ledger(fleet):
    uuid = fleet.told("instance", "show", "db1")["uuid"]
    assert fleet.told("audit", "alpha")["findings"] == []
    fleet.fleet.set_kernel_mask("alpha", uuid, 0, CpuSet.of([7]))
    found = fleet.run("audit", "-f", "json")
    assert found.code == 1, "whoever asks in a script has to hear of it"
    report = json.loads(found.out)
    assert [one["subject"] for one in report["findings"]] == ["db1"] * len(report["findings"])
    assert report["findings"]
    assert set(report["cost_ms"]) == {"alpha", "beta"}
    fleet.fleet.set_kernel_mask("alpha", uuid, 0, CpuSet.of([2]))
    fleet.fleet.host("beta").alive = False
    silent = fleet.run("audit", "-f", "json")
    assert (silent.code, set(json.loads(silent.out)["unreachable"])) == (8, {"beta"})


def test_nothing_but_ascii_reaches_a_terminal_that_has_no_more(fleet, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert app.run(["--db", fleet.db, "topology", "alpha"]) == 0
    out.flush()
    assert "| 2 A |" in out.buffer.getvalue().decode("ascii")


def test_the_fit_runs_on_a_file_of_cases(world):
    case = {
        "id": "one",
        "limits": None,
        "host": {"cells": []},
        "guest": {"vcpus": 1, "memory_mb": 64, "extra_specs": {"hw:cpu_policy": "dedicated"}},
    }
    path = world.folder / "cases.jsonl"
    path.write_text(json.dumps(case) + "\n", encoding="utf-8")
    ran = world.run("fit", "--cases", str(path))
    assert json.loads(ran.out)["id"] == "one"
    assert "1 cases" in ran.err
    assert world.ok("fit", "--cases", str(path), "-f", "json") == ran.out


def test_an_audit_of_no_host_does_not_say_that_all_is_well(world):
    said = world.ok("audit")
    assert "Nothing was audited" in said
    assert "agree" not in said
