"""A guest's secrets travel with it and are seen nowhere else."""

from __future__ import annotations

import pytest
from lxml import etree

pytestmark = pytest.mark.lab

PASSWORD = "hunter2p"  # noqa: S105  (looked for everywhere it must not be)


def with_console(root):
    """Give the guest a VNC display with a password."""
    devices = root.find("devices")
    etree.SubElement(devices, "graphics", type="vnc", port="-1", autoport="yes", passwd=PASSWORD)
    # a display wants a card
    etree.SubElement(etree.SubElement(devices, "video"), "model", type="vga")


def password_of(operator, host, *words):
    return operator.xml(host, "db1", "--security-info", *words).find("devices/graphics").get("passwd")


def test_a_password_moves_with_the_guest_and_is_nowhere_else(operator):
    guest = operator.start(edit=with_console)
    said = [
        operator.run("scan", operator.lab.host("alpha").uri),
        operator.run("instance", "adopt", "db1"),
        operator.run("migrate", "db1", "--dry-run"),
        operator.run("migrate", "db1", "--dry-run", "-f", "json"),
        operator.run("migrate", "db1", "--as-virsh"),
        operator.run("migrate", "db1", "--as-virsh", "-f", "json"),
    ]
    assert "<graphics" in said[-2].out, "the display itself is in the XML that is shown"
    link = operator.lab.host("beta").data_links[0]
    with operator.begin("--debug", "migrate", "db1", "--bandwidth", "2") as failing:
        # the destination's QEMU is killed under way: the error that comes of it is the longest that there is
        for line in failing.stderr:
            if "remaining" in line:
                break
        operator.lab.host("beta").exec("kill -9 $(cat /run/libvirt/qemu/db1.pid)")
        out, err = failing.communicate(timeout=60)
        assert failing.returncode != 0, out
        assert "Traceback" in err
    operator.settled(guest, "alpha")
    said += [operator.run("migrate", "db1"), operator.run("migration", "show", "1", "-f", "json")]
    said += [
        operator.run("migration", "show", "2", "-f", "json"),
        operator.run("instance", "show", "db1", "-f", "json"),
    ]
    operator.settled(guest, "beta")
    assert password_of(operator, "beta") == PASSWORD
    assert password_of(operator, "beta", "--inactive") == PASSWORD
    assert operator.xml("beta", "db1").find("devices/interface/source").get("dev") == link
    assert [one for one in said if PASSWORD in one.out + one.err] == []
    assert PASSWORD not in out + err + line
    assert PASSWORD.encode() not in operator.ledger_bytes()
    kept = [path for path in operator.folder.rglob("*") if path.is_file() and path.name != "db1.xml"]
    assert [path for path in kept if PASSWORD.encode() in path.read_bytes()] == []
