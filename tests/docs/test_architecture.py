"""What ARCHITECTURE.md says of the code as a whole."""

import ast
import re
import tomllib
from pathlib import Path

from numaferry.virt.port import Hypervisor

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")

#: virDomain's calls that end, stop or lose a guest.
ENDS = {
    *("destroy", "destroyFlags", "shutdown", "shutdownFlags", "reset", "reboot", "suspend", "PMSuspendForDuration"),
    *("undefine", "undefineFlags", "save", "saveFlags", "managedSave", "coreDump", "injectNMI"),
}


def called(folder):
    """Names of methods that are called anywhere in a folder."""
    trees = (
        ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "src" / "numaferry" / folder).rglob("*.py")
    )
    return {
        node.func.attr
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }


def test_nothing_of_ours_can_end_a_guest():
    assert "migrateToURI3" in called("virt/libvirt"), "calls are found"
    # the one that pauses a guest does so only while its job runs, which libvirt ends by running it on the destination:
    # tests/virt/test_libvirt_real.py::test_only_a_guest_on_its_way_is_paused
    assert called("virt/libvirt") & ENDS == {"suspend"}
    methods = {name for name in vars(Hypervisor) if not name.startswith("_")}
    assert methods == {
        *("uri", "facts", "free_pages", "domains", "domain", "domain_xml", "thread_masks", "check_vifs"),
        "guest_support",
        *("same_connection", "close"),
        *("set_ownership", "set_pins", "plug_vifs", "unplug_vifs"),
        *("live_migration", "job", "completed_job", "abort_job", "resume"),
        *("set_max_downtime", "start_postcopy", "suspend"),
        # reads a sample of the guest's pages; tests/virt/test_dirtying.py holds it to that
        "look_at_memory",
        # images: read, made where nothing lies, and removed where the ledger says that this migration made them
        *("storage", "disk_sizes", "create_volume", "delete_volume"),
    }, "a new way to act on a host is weighed against invariant 6, then named here"


def test_only_one_module_imports_libvirt_s_bindings():
    found = [
        path.name
        for path in (ROOT / "src").rglob("*.py")
        if re.search(r"(?m)^\s*(import libvirt$|from libvirt import)", path.read_text(encoding="utf-8"))
    ]
    assert found == ["connection.py"]


def test_every_room_stands_in_the_table_in_the_order_of_the_contract():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    rows = re.findall(r"(?m)^\| ((?:`\w+`(?: · )?)+) \|", PAGE[PAGE.index("## Rooms") : PAGE.index("## Names")])
    order = [{name.strip().removeprefix("numaferry.") for name in layer.split("|")} for layer in layers]
    assert [set(re.findall(r"\w+", row)) for row in rows] == order


def test_every_package_is_a_room():
    rooms = {path.parent.name for path in (ROOT / "src" / "numaferry").glob("*/__init__.py")}
    assert all(f"`{room}`" in PAGE for room in rooms)
