"""The console script on two real libvirtds: a move, Ctrl-C, kill -9 and abort, as an operator has them."""

import json
import os
import signal
import subprocess
import sys
import time

import libvirt
import pytest

from labs import clear_guests
from numaferry.lab.guests import GuestCell, GuestSpec, domain_xml, put_in_share

pytestmark = pytest.mark.lab


@pytest.fixture
def operator(namespaces_lab, tmp_path):
    """Two libvirtds in namespaces with a pinned guest on the first, and an empty ledger."""
    made = Operator(namespaces_lab, tmp_path)
    made.start_guest()
    yield made
    clear_guests(namespaces_lab)


class Operator:
    """Runs numaferry as a command, in processes of its own."""

    def __init__(self, lab, folder):
        self.lab = lab
        self.environment = {**os.environ, "NUMAFERRY_DB": str(folder / "ledger.sqlite")}
        rows = [
            f'[[host]]\nname = "{host.name}"\nuri = "{host.uri}"\ncpu_dedicated_set = "1"\ncpu_shared_set = "0"\n'
            f'migration_address = "{host.ip}"\n'
            for host in lab.hosts
        ]
        self.toml = folder / "hosts.toml"
        self.toml.write_text("\n".join(rows), encoding="utf-8")

    def start_guest(self):
        host = self.lab.hosts[0]
        spec = GuestSpec(
            name="db1",
            image=put_in_share(self.lab, "tiny"),
            serial=host.share / "db1.serial",
            domain_type="qemu",
            cells=(GuestCell("0", 48, "0"),),
            vcpu_pins={0: "1"},
            emulator_pin="0",
        )
        connection = libvirt.open(host.uri)
        connection.defineXML(domain_xml(spec)).create()
        connection.close()

    def begin(self, *words):
        return subprocess.Popen(
            [sys.executable, "-m", "numaferry", *words],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words, code=0):
        process = self.begin(*words)
        out, err = process.communicate(timeout=120)
        assert process.returncode == code, err
        return out

    def told(self, *words):
        return json.loads(self.run(*words, "-f", "json"))

    def slow_move(self):
        """Begin a move of some 20 s and return its process once the job has begun to copy."""
        process = self.begin("migrate", "db1", "--bandwidth", "2")
        deadline = time.monotonic() + 60
        for line in process.stderr:
            if "remaining" in line:
                return process
            assert time.monotonic() < deadline, line
        pytest.fail("the move ended before it copied anything")


def test_an_operators_day(operator):
    report = operator.told("scan", *(host.uri for host in operator.lab.hosts))
    assert [(one["guest"], one["fits"]) for one in report["moves"]] == [("db1", True)]
    operator.run("host", "import", str(operator.toml))
    operator.run("instance", "adopt", "--all")

    plan = operator.told("migrate", "db1", "--dry-run")
    assert (plan["source"], plan["dest"]) == ("alpha", "beta")
    told = operator.run("migrate", "db1")
    assert "db1 moved from alpha to beta" in told
    assert "vcpu 0 runs on CPU 1 by the kernel's mask, as claimed" in told
    assert operator.told("audit")["findings"] == []

    interrupted = operator.slow_move()
    interrupted.send_signal(signal.SIGINT)
    _, err = interrupted.communicate(timeout=30)
    assert interrupted.returncode == 130
    assert "goes on without this command: libvirt on beta drives the job" in err
    (done,) = operator.told("migration", "recover")
    assert (done["outcome"], done["migration"]["status"]) == ("recovered", "completed")
    assert operator.told("instance", "show", "db1")["host"] == "alpha"

    killed = operator.slow_move()
    killed.kill()
    killed.communicate(timeout=30)
    assert operator.told("migration", "list")[0]["status"] == "running"
    assert operator.told("migration", "abort", "3")["status"] == "cancelled"
    assert operator.told("instance", "show", "db1")["host"] == "alpha"
    assert operator.told("audit")["findings"] == []
    rows = operator.told("ledger", "explain", "beta")["cpus"]
    assert not [row for row in rows if row["instance"]]


def served(operator, *words):
    """Start a controller and return its process once it says that it runs."""
    process = operator.begin("serve", *words)
    assert "runs as" in process.stdout.readline()
    return process


def test_a_controller_drives_what_is_handed_to_it_is_killed_and_followed_by_another(operator):
    operator.run("host", "import", str(operator.toml))
    operator.run("instance", "adopt", "--all")
    first = served(operator, "--name", "east")
    moved = operator.begin("migrate", "db1")
    out, err = moved.communicate(timeout=120)
    assert moved.returncode == 0, err
    assert "controller east drives it" in err
    assert "db1 moved from alpha to beta" in out

    again = operator.begin("serve", "--name", "east")
    _, err = again.communicate(timeout=60)
    assert again.returncode == 3
    assert "a controller named east runs already" in err

    slow = operator.slow_move()
    first.kill()
    first.communicate(timeout=30)
    second = served(operator, "--name", "east")
    out, err = slow.communicate(timeout=120)
    assert slow.returncode == 0, err
    assert "db1 moved from beta to alpha" in out
    events = [event["sentence"] for event in operator.told("migration", "show", "2")["events"]]
    assert any("takes over from" in sentence for sentence in events), events
    assert any(sentence.startswith("adopted; source beta") for sentence in events), events
    assert operator.told("audit")["findings"] == []

    second.send_signal(signal.SIGTERM)
    out, err = second.communicate(timeout=30)
    assert second.returncode == 0, err
    assert out.splitlines()[-1] == "controller east ends"


def watched(operator, *words):
    """Watch a migration in a process of its own until it tells a time left; returns it with the lines so far."""
    process = operator.begin("migration", "watch", *words, "-f", "json")
    lines = []
    for line in process.stdout:
        lines.append(json.loads(line))
        if (lines[-1]["progress"] or {}).get("eta_s"):
            return process, lines
    pytest.fail(process.stderr.read())


def test_a_move_is_watched_from_another_terminal_which_is_killed_and_another_one(operator):
    operator.run("host", "import", str(operator.toml))
    operator.run("instance", "adopt", "--all")
    mover = operator.slow_move()
    first, lines = watched(operator, "db1")
    first.kill()
    first.communicate(timeout=30)
    assert (lines[-1]["status"], lines[-1]["step"]) == ("running", "live_migration")
    assert lines[-1]["progress"]["job"]["memory_remaining_bytes"] > 0
    assert " left, at " in lines[-1]["progress"]["eta"]

    second, _ = watched(operator, "1")
    second.send_signal(signal.SIGINT)
    _, err = second.communicate(timeout=30)
    assert second.returncode == 130
    assert "is left alone, running" in err

    third, lines = watched(operator, "db1")
    out, err = third.communicate(timeout=120)
    assert third.returncode == 0, err
    lines += [json.loads(line) for line in out.splitlines()]
    _, err = mover.communicate(timeout=120)
    assert mover.returncode == 0, err
    last = lines[-1]
    assert (last["status"], last["progress"]["percent"]) == ("completed", 100)
    assert last["progress"]["job"]["downtime_ms"] > 0
    told = [event["sentence"] for line in lines for event in line["events"]]
    assert "db1 is on beta" in told
    for line in lines:
        if line["progress"] and line["progress"]["job"]["memory_remaining_bytes"]:
            assert line["progress"]["percent"] < 100
    assert operator.told("audit")["findings"] == []
