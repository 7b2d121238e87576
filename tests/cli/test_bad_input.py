"""Bad input: a one-line error with a hint, the exit code of its kind, and nothing changed."""

import json
import sqlite3

import pytest
from cli_world import FLOATER, HOSTS_TOML, NOVA, guest_xml

from numaferry import virt
from numaferry.errors import TooOld
from numaferry.service import Ferry
from numaferry.virt.simulated.fleet import CONTROLLER


def refused(world, code, error, hint, *words):
    """Run words: it must end with code, one line of error that holds `error`, a hint, and nothing changed."""
    before = world.reality()
    ran = world.run(*words)
    lines = ran.err.splitlines()
    assert ran.code == code, ran.err
    assert len(lines) == 2, ran.err
    assert lines[0].startswith("error: ")
    assert error in lines[0]
    assert lines[1].startswith("hint: ")
    assert hint in lines[1]
    assert ran.out == ""
    assert world.reality() == before
    told = json.loads(world.run(*words, "-f", "json").err)["error"]
    assert told["exit_code"] == code
    assert error in " ".join(told["message"].split())
    assert world.reality() == before


@pytest.fixture
def fleet(world):
    """A managed world: db1 on alpha, noisy1 on beta, both adopted."""
    world.fleet.start_guest("alpha", guest_xml("db1", [2, 6], [0, 1]))
    world.fleet.start_guest("beta", guest_xml("noisy1", [2, 6], [0, 1], link="enp7s0"))
    world.manage()
    return world


def test_an_unknown_host(fleet):
    refused(fleet, 2, "no host 'gamma'", "alpha, beta", "host", "show", "gamma")
    refused(fleet, 2, "no host 'gamma'", "alpha, beta", "migrate", "db1", "--dest", "gamma")
    refused(fleet, 2, "no host 'gamma'", "alpha, beta", "topology", "gamma")


def test_an_unreachable_host(fleet):
    fleet.fleet.host("beta").alive = False
    rows = fleet.rows()
    for words in (
        ("host", "add", "sim://cli/beta", "--name", "again"),
        ("audit", "beta"),
        ("scan", "sim://cli/beta"),
        ("migrate", "db1", "--dest", "beta"),
        ("migrate", "db1", "--dest", "beta", "--dry-run"),
        ("instance", "adopt", "noisy1", "--host", "beta"),
    ):
        ran = fleet.run(*words)
        assert (ran.code, len(ran.err.splitlines())) == (8, 2), ran.err
        assert "unable to connect" in ran.err
        assert fleet.rows() == rows


def test_a_uri_that_is_none(world):
    refused(world, 2, "'http://x' is no URI", "qemu+ssh", "scan", "http://x")


def test_a_host_added_twice(fleet):
    refused(fleet, 3, "host alpha is in the ledger already", "host show alpha", "host", "add", "sim://cli/alpha")
    refused(
        fleet, 3, "is the machine known as alpha", "host show alpha", "host", "add", "sim://cli/alpha", "--name", "x"
    )


def test_a_host_of_another_ledger(fleet, tmp_path):
    (tmp_path / "other").mkdir()
    other = type(fleet)(fleet.fleet, tmp_path / "other")
    refused(
        other, 3, "1 guests of alpha (db1) belong to another ledger", "--take-over", "host", "add", "sim://cli/alpha"
    )
    refused(other, 3, "belong to another ledger", "--take-over", "host", "import", other.toml())
    assert other.told("host", "list") == []
    other.ok("host", "add", "sim://cli/alpha", "--take-over")
    other.ok("host", "confirm", "alpha")
    refused(other, 3, "db1 on alpha belongs to another ledger", "--force", "instance", "adopt", "db1")


def test_an_instance_that_is_not_found(fleet):
    refused(fleet, 2, "no instance 'db7'", "instance list", "migrate", "db7")
    refused(fleet, 2, "no instance 'db7'", "instance list", "explain", "db7")
    refused(fleet, 2, "no domain 'db7'", "scan", "instance", "adopt", "db7")
    refused(fleet, 2, "no migration '9'", "migration list", "migration", "show", "9")


def test_an_ambiguous_instance(fleet):
    uuid = "aaaaaaaa-0000-4000-8000-00000000000"
    for number, (name, cpu) in enumerate((("twin", 3), ("twin", 7))):
        xml = guest_xml(name, [cpu], [number], link="ens3" if number == 0 else "enp7s0")
        host = ("alpha", "beta")[number]
        fleet.fleet.start_guest(host, xml.replace("<metadata>", f"<uuid>{uuid}{number}</uuid><metadata>"))
    refused(fleet, 2, "'twin' fits 2 domains", "--host", "instance", "adopt", "twin")
    fleet.ok("instance", "adopt", "--all")
    refused(fleet, 2, "'twin' fits 2 instances", "whole UUID", "migrate", "twin")
    refused(fleet, 2, "'aaaaaaaa' fits 2 instances", "whole UUID", "instance", "show", "aaaaaaaa")


def test_the_destination_is_the_source(fleet):
    refused(fleet, 3, "db1 runs on alpha already", "another destination", "migrate", "db1", "--dest", "alpha")
    refused(
        fleet, 3, "db1 runs on alpha already", "another destination", "migrate", "db1", "--dest", "alpha", "--dry-run"
    )


def test_a_destination_that_cannot_fit(fleet):
    for number, cpu in enumerate((3, 4, 5, 7)):
        fleet.fleet.start_guest("beta", guest_xml(f"full{number}", [cpu], [cpu // 4], link="enp7s0"))
    fleet.ok("instance", "adopt", "--all")
    fleet.ok("topology", "beta")
    refused(fleet, 4, "db1 does not fit", "explain db1", "migrate", "db1", "--dest", "beta", "--dry-run")
    ran = fleet.run("migrate", "db1", "--dest", "beta")
    assert ran.code == 4
    assert "db1 does not fit" in ran.err
    assert len(ran.err.splitlines()) == 2


def test_a_domain_that_is_off(fleet):
    fleet.fleet.define_guest("alpha", guest_xml("cold", [3], [0]))
    refused(fleet, 3, "cold on alpha is shutoff", "start it first", "instance", "adopt", "cold")
    uuid = fleet.told("instance", "show", "db1")["uuid"]
    fleet.fleet.end_guest("alpha", uuid)
    refused(fleet, 3, "db1 on alpha is shutoff", "start it first", "migrate", "db1")


def test_a_domain_that_is_not_adopted(fleet):
    fleet.fleet.start_guest("alpha", FLOATER)
    refused(fleet, 2, "no instance 'web'", "adopt it first", "migrate", "web")


def test_a_guest_of_nova(fleet):
    fleet.fleet.start_guest("alpha", guest_xml("cloudy", [3], [0], metadata=NOVA))
    refused(fleet, 3, "cloudy on alpha is managed by nova", "--force", "instance", "adopt", "cloudy")
    (seen,) = [one for one in fleet.told("scan", "sim://cli/alpha")["hosts"][0]["guests"] if one["name"] == "cloudy"]
    assert (seen["manager"], seen["pinned_cpus"]) == ("nova", "3")
    fleet.ok("topology", "alpha")
    assert fleet.told("host", "list")[0]["free_dedicated"] == 3
    fleet.ok("instance", "adopt", "cloudy", "--force")
    refused(fleet, 3, "managed by nova", "force", "migrate", "cloudy")
    fleet.ok("migrate", "cloudy", "--force")


def test_sets_that_are_not_confirmed(world):
    world.fleet.start_guest("alpha", guest_xml("db1", [2, 6], [0, 1]))
    world.ok("host", "add", "sim://cli/alpha")
    refused(world, 3, "host alpha is not confirmed", "host confirm alpha", "instance", "adopt", "db1")
    refused(world, 3, "host alpha is not confirmed", "host confirm alpha", "instance", "adopt", "--all")
    world.ok("host", "confirm", "alpha")
    world.ok("instance", "adopt", "db1")
    world.ok("host", "add", "sim://cli/beta")
    refused(world, 3, "host beta is not confirmed", "host confirm beta", "migrate", "db1", "--dest", "beta")


def test_sets_that_cannot_be(fleet):
    refused(fleet, 2, "CPU 8-9 does not exist", "0-7", "host", "confirm", "alpha", "--dedicated", "2-9")
    refused(fleet, 2, "can't read 'x'", "0-3,^2,8", "host", "confirm", "alpha", "--dedicated", "x")


def test_invalid_toml(world):
    refused(world, 2, "not valid TOML", "docs/cli.md", "host", "import", world.toml("[[host"))
    refused(world, 2, "unknown key 'cpus'", "cpu_dedicated_set", "host", "import", world.toml("[[host]]\ncpus = 1\n"))
    refused(world, 2, "can't read", "TOML file", "host", "import", str(world.folder / "absent.toml"))
    nowhere = HOSTS_TOML.replace("sim://cli/beta", "sim://cli/gamma")
    assert world.run("host", "import", world.toml(nowhere)).code in {2, 8}
    assert world.told("host", "list") == []


def test_no_host_is_stored_where_one_of_a_file_cannot_be(world):
    outside = HOSTS_TOML.replace(
        '"2-7"\ncpu_shared_set = "0-1"\nreserved_host_memory_mb = 256\nphysical_networks = { physnet0 = "enp',
        '"2-9"\ncpu_shared_set = "0-1"\nphysical_networks = { physnet0 = "enp',
    )
    assert outside != HOSTS_TOML
    refused(world, 2, "CPU 8-9 does not exist", "0-7", "host", "import", world.toml(outside))


def test_a_ledger_of_a_newer_version(fleet):
    with sqlite3.connect(fleet.db) as connection:
        connection.execute("UPDATE ledger SET schema_version = 99")
    connection.close()
    refused(fleet, 9, "has schema 99", "--db", "host", "list")


def test_a_file_that_is_no_ledger(world):
    (world.folder / "ledger.sqlite").write_text("this is no database, and long enough to be read as one" * 20)
    ran = world.run("host", "list")
    assert (ran.code, len(ran.err.splitlines())) == (9, 2)


def test_a_host_whose_libvirt_is_too_old(world, monkeypatch):
    # The simulated side has no versions to refuse: what `connect` raises for an old libvirt is raised here.
    def old(uri):
        raise TooOld(f"{uri}: libvirt 5.0.0 is older than 7.0.0", hint="upgrade libvirt on the host")

    monkeypatch.setattr(virt, "connect", old)
    refused(world, 3, "libvirt 5.0.0 is older", "upgrade", "host", "add", "sim://cli/alpha")
    refused(world, 3, "libvirt 5.0.0 is older", "upgrade", "scan", "sim://cli/alpha")


def test_a_host_with_guests_is_not_removed(fleet):
    refused(fleet, 3, "host alpha has 1 claims", "ledger explain alpha", "host", "remove", "alpha")


def test_usage_errors_are_told_like_all_others(world):
    refused(world, 2, "No such option", "numaferry host list --help", "host", "list", "--colour")
    refused(world, 2, "name domains, or give --all", "--help", "instance", "adopt")
    refused(world, 2, "Missing argument", "--help", "migrate")


def test_a_group_without_a_command_shows_its_help(world):
    ran = world.run("host")
    assert ran.code == 2
    assert "confirm" in ran.err
    assert not ran.err.startswith("error:")


def test_a_fault_of_ours_is_told_without_a_traceback_but_with_debug(world, monkeypatch):
    def broken(_self):
        raise RuntimeError("out of cheese")

    monkeypatch.setattr(Ferry, "host_list", broken)
    ran = world.run("host", "list")
    assert (ran.code, ran.err.splitlines()[0]) == (1, "error: RuntimeError: out of cheese")
    with pytest.raises(RuntimeError, match="cheese"):
        world.run("--debug", "host", "list")


def test_a_host_that_went_away_is_drawn_as_last_seen(fleet):
    fleet.fleet.cut(CONTROLLER, "beta")
    assert "as last seen; the host can't be asked now" in fleet.ok("topology", "beta")
