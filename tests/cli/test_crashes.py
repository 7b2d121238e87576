"""What happens to a migration when its command is interrupted, killed, or asked to give up."""

import threading
import time

import pytest
from cli_world import guest_xml

from numaferry.cli import app
from numaferry.service import Ferry, moves
from numaferry.virt.simulated import ClientDied


@pytest.fixture
def fleet(world):
    world.fleet.start_guest("alpha", guest_xml("db1", [2, 6], [0, 1]))
    world.manage()
    return world


def orphan(world):
    """Make the last migration's controller a process that is no more, as after a kill -9."""
    with Ferry.open(world.db) as ferry:
        last = ferry.ledger.migrations()[-1]
        host = last.controller.split(":")[0]
        dead = f"{host}:999999999:1"
        ferry.ledger.take_lease(last.id, dead, 30.0, grace_s=60.0, gone=last.controller, key=f"{last.id} killed")


def killed(world, scenario_point, action="client-dies", **more):
    """Start a move whose command dies at a point of the job, with nothing run on."""
    world.fleet.inject(scenario_point, action, **more)
    with pytest.raises(ClientDied):
        world.run("migrate", "db1", "--dest", "beta", "--bandwidth", "64")
    orphan(world)


def held(world, host):
    return {row["cpu"] for row in world.told("ledger", "explain", host)["cpus"] if row["instance"] == "db1"}


def test_a_job_that_lost_its_command_is_adopted_and_finished(fleet):
    killed(fleet, "perform", after_bytes=96 << 20)
    (line,) = fleet.told("migration", "list", "--in-progress")
    assert line["status"] == "running"
    assert held(fleet, "alpha")
    assert held(fleet, "beta")
    assert [one["tenure"] for one in fleet.told("topology", "alpha")["guests"]] == ["outgoing"]
    assert "incoming" in fleet.ok("topology", "beta")
    assert fleet.told("instance", "list")[0]["moving"] == 1
    (done,) = fleet.told("migration", "recover")
    assert (done["outcome"], done["migration"]["status"]) == ("recovered", "completed")
    assert fleet.told("instance", "show", "db1")["host"] == "beta"
    assert not held(fleet, "alpha")
    assert "Nothing to recover" in fleet.ok("migration", "recover")


def test_a_command_that_died_before_the_job_is_rolled_back(fleet):
    killed(fleet, "call.plug_vifs")
    (done,) = fleet.told("migration", "recover", "1")
    assert (done["outcome"], done["migration"]["status"]) == ("recovered", "failed")
    assert fleet.told("instance", "show", "db1")["host"] == "alpha"
    assert not held(fleet, "beta")


def test_the_next_move_of_the_same_guest_recovers_the_last_one_first_and_says_so(fleet):
    killed(fleet, "call.plug_vifs")
    ran = fleet.run("migrate", "db1", "--dest", "beta")
    assert ran.code == 0, ran.err
    assert "migration 1 of db1 was left behind by" in ran.err
    assert "migration 1 is failed" in ran.err
    assert [one["status"] for one in fleet.told("migration", "list")] == ["completed", "failed"]


def test_a_migration_that_is_driven_is_not_taken_over(fleet):
    fleet.fleet.inject("perform", "client-dies", after_bytes=32 << 20)
    with pytest.raises(ClientDied):
        fleet.run("migrate", "db1", "--dest", "beta", "--bandwidth", "64")
    # This process bears the controller's name and lives: as far as anyone can tell, it drives.
    ran = fleet.run("migration", "recover", "1")
    assert ran.code == 3
    assert "is being driven by" in ran.err
    assert "Nothing to recover" in fleet.ok("migration", "recover")
    ran = fleet.run("migrate", "db1")
    assert ran.code == 3
    assert "migration abort 1" in ran.err


def test_an_abandoned_migration_can_be_given_up(fleet):
    killed(fleet, "perform", after_bytes=16 << 20)
    line = fleet.told("migration", "abort", "1")
    assert line["status"] == "cancelled"
    assert fleet.told("instance", "show", "db1")["host"] == "alpha"
    assert not held(fleet, "beta")
    for word in ("abort", "recover"):
        ran = fleet.run("migration", word, "1")
        assert ran.code == 3
        assert f"is cancelled: there is nothing to {word}" in ran.err
        assert "hint: how it ended" in ran.err


def test_a_move_that_fails_leaves_the_guest_on_the_source_and_says_why(fleet):
    fleet.fleet.inject("prepare", "dest-start-fails")
    ran = fleet.run("migrate", "db1", "--dest", "beta")
    assert ran.code == 6
    assert ran.err.splitlines()[-2].startswith("error: ")
    assert "the guest is on alpha" in ran.err
    assert fleet.told("instance", "show", "db1")["host"] == "alpha"
    assert not held(fleet, "beta")


def test_a_migration_that_needs_a_person_ends_with_its_own_code(fleet):
    killed(fleet, "perform", after_bytes=32 << 20)
    uuid = fleet.told("instance", "show", "db1")["uuid"]
    fleet.fleet.host("alpha").domains.pop(uuid)
    fleet.fleet.jobs.clear()
    fleet.fleet.host("beta").domains.pop(uuid, None)
    ran = fleet.run("migration", "recover", "1")
    assert ran.code == 7
    assert "needs a person" in ran.out


def test_ctrl_c_says_what_happens_and_leaves_the_job_going(fleet, monkeypatch):
    fleet.fleet.pace_s = 0.01
    running = threading.Event()

    def interrupt(self, timeout=None):
        # Ctrl-C as it arrives: in the main thread, while it waits for the worker.
        running.wait(10)
        raise KeyboardInterrupt

    fleet.fleet.observe(
        lambda sim: running.set() if sim.jobs and any(j.processed_bytes for j in sim.jobs.values()) else None
    )
    monkeypatch.setattr(moves.threading.Thread, "join", interrupt)
    try:
        ran = fleet.run("migrate", "db1", "--dest", "beta", "--bandwidth", "64")
    finally:
        monkeypatch.undo()
    assert ran.code == 130
    said = [line for line in ran.err.splitlines() if "goes on without this command" in line]
    assert said, ran.err
    assert "migration recover 1" in ran.err
    assert "migration abort 1" in ran.err
    # The command's process would have ended here. In this one the worker goes on to the end, as the job does.
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and fleet.told("migration", "list")[0]["status"] != "completed":
        time.sleep(0.1)
    assert fleet.told("instance", "show", "db1")["host"] == "beta"


def test_an_interrupted_command_ends_with_130(world, monkeypatch):
    def interrupted(_self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Ferry, "host_list", interrupted)
    assert app.run(["--db", world.db, "host", "list"]) == 130


def test_a_migration_left_waiting_for_a_silent_host_ended_recover_with_0(fleet):
    killed(fleet, "perform", after_bytes=16 << 20)
    fleet.fleet.cut("controller", "alpha")
    ran = fleet.run("migration", "recover", "-f", "json")
    assert ran.code == 8
    assert '"waiting"' in ran.out
    fleet.fleet.heal()
    assert fleet.told("migration", "recover")[0]["outcome"] == "recovered"


def test_a_guest_that_is_gone_for_good_is_answered_for_by_a_person(fleet):
    killed(fleet, "perform", after_bytes=16 << 20)
    uuid = fleet.told("instance", "show", "db1")["uuid"]
    ran = fleet.run("migration", "recover", "1", "--answer", "guest-is-gone")
    assert ran.code == 3
    assert "db1 is not gone: source alpha: running" in ran.err
    fleet.fleet.end_guest("alpha", uuid, "destroyed")
    fleet.fleet.advance(3)
    del fleet.fleet.hosts["alpha"].domains[uuid]
    assert fleet.run("migration", "recover", "1").code == 7
    assert fleet.run("migration", "recover", "--answer", "guest-is-gone").code == 2, "of which migration?"
    ran = fleet.run("migration", "recover", "1", "--answer", "guest-is-gone")
    assert ran.code == 0, ran.err
    assert fleet.told("instance", "list") == []
    assert not held(fleet, "alpha")
    assert not held(fleet, "beta")
