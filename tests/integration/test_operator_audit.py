"""Promise against reality, with others at work behind the ledger's back."""

from __future__ import annotations

import pytest

from numaferry.lab.guests import GuestCell

pytestmark = pytest.mark.lab


def findings(operator, *words, code=1):
    return {one["kind"]: one for one in operator.told("audit", *words, code=code)["findings"]}


def test_a_mask_that_was_set_behind_libvirts_back_is_found_and_the_remedy_mends_it(operator):
    guest = operator.start()
    operator.run("instance", "adopt", "db1")
    operator.run("migrate", "db1")
    operator.settled(guest, "beta")
    operator.lab.host("beta").exec(
        "for t in /proc/$(cat /run/libvirt/qemu/db1.pid)/task/*; do "
        'case "$(cat $t/comm)" in "CPU 0"*) taskset -pc 0 ${t##*/};; esac; done'
    )
    assert operator.masks("beta", guest)["CPU_0/TCG"] == "0"
    assert '<vcpupin vcpu="0" cpuset="1"/>' in operator.virsh("beta", "dumpxml", "db1").replace("'", '"')
    found = findings(operator, "beta")["pins-differ"]
    assert "vCPU 0 on 0 instead of 1" in found["sentence"]
    operator.python(
        "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1], shell=True).returncode)", found["remedy"]
    )
    assert operator.masks("beta", guest)["CPU_0/TCG"] == "1"
    assert operator.told("audit")["findings"] == []
    assert guest.goes_on()


def test_a_stranger_on_a_dedicated_cpu_blocks_claims_and_is_a_finding(operator):
    """It came after the hosts were imported, by somebody who does not know numaferry."""
    guest = operator.start()
    operator.run("instance", "adopt", "db1")
    operator.start("stranger", "beta", nics=(), persistent=False, cells=(GuestCell("0", 32, "0"),))
    said = operator.run("migrate", "db1", code=4)
    assert "does not fit on any other host (beta: " in said.err
    assert "needs 1 dedicated CPU, 0 free" in said.err
    assert "more: numaferry explain db1" in said.err, "only there the stranger is named"
    assert "fits if instance stranger leaves" in operator.run("explain", "db1", "beta").out
    operator.run("ledger", "explain", "beta")
    assert "stranger" in operator.run("topology", "beta").out, "the picture shows who is there"
    found = findings(operator)["unclaimed-on-dedicated"]
    assert (found["host"], found["subject"]) == ("beta", "stranger")
    assert found["remedy"] == "numaferry instance adopt stranger"
    assert operator.running("db1") == ["alpha"]
    operator.virsh("beta", "destroy", "stranger")
    operator.run("migrate", "db1")
    operator.settled(guest, "beta")


def test_two_guests_on_one_cpu_are_shown_by_a_scan_that_needs_no_ledger(operator):
    for name in ("one", "two"):
        operator.start(name, nics=(), persistent=False, cells=(GuestCell("0", 32, "0"),))
    said = operator.run("scan", operator.lab.host("alpha").uri)
    report = operator.told("scan", operator.lab.host("alpha").uri)
    shared = [one for one in report["findings"] if "one" in one["sentence"] and "two" in one["sentence"]]
    assert shared, report["findings"]
    assert "0" in shared[0]["sentence"]
    assert shared[0]["sentence"].split()[0] in said.out
