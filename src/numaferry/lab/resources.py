"""What a lab makes on the machine besides processes, and how each kind is released: by its row in a table.

Every maker writes its intent to the journal first. Every release may be called for something that never came to be,
or is gone already, and is then silent; so tearing down twice, or after a crash anywhere, is the same as once.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from numaferry.errors import EnvironmentLacking
from numaferry.lab.commands import run
from numaferry.lab.processes import end_process

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numaferry.lab.journal import Journal, Resource


def make_directory(journal: Journal, path: Path) -> Path:
    """Make a directory that only root may enter, and that goes with everything in it. An existing one is refused."""
    if path.exists():
        raise EnvironmentLacking(
            f"{path} exists and is not of this lab", hint="move it away, or choose another directory"
        )
    journal.intend("directory", path=str(path))
    path.mkdir(mode=0o700, parents=True)
    return path


def make_netns(journal: Journal, name: str) -> str:
    """Make a network namespace with its loopback up."""
    journal.intend("netns", name=name)
    run(["ip", "netns", "add", name])
    run(["ip", "-n", name, "link", "set", "lo", "up"])
    return name


def make_link(journal: Journal, name: str, arguments: Sequence[str]) -> str:
    """Make a network link of this machine's own namespace: `ip link add NAME ARGUMENTS`; `name` ≤ 15 characters."""
    journal.intend("link", name=name)
    run(["ip", "link", "add", name, *arguments])
    return name


def make_mount(journal: Journal, target: Path, arguments: Sequence[str]) -> Path:
    """Mount something at `target`: `mount ARGUMENTS TARGET`."""
    journal.intend("mount", path=str(target))
    run(["mount", *arguments, str(target)])
    return target


def mounts_below(directory: Path) -> list[str]:
    """Return the mount points at or below `directory`, deepest first, as this mount namespace sees them."""
    table = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    # proc(5): field 5 is the mount point, with blanks and backslashes in octal
    points = [line.split()[4].encode().decode("unicode_escape") for line in table.splitlines()]
    inside = [point for point in points if Path(point).is_relative_to(directory)]
    return sorted(inside, key=len, reverse=True)


def _release_directory(_: Journal, resource: Resource) -> None:
    path = Path(resource.facts["path"])
    if held := mounts_below(path):
        raise EnvironmentLacking(f"{path} is not removed while {held[0]} is mounted", hint=f"umount {held[0]}")
    if path.exists():
        shutil.rmtree(path)


def _release_netns(_: Journal, resource: Resource) -> None:
    if Path("/run/netns", resource.facts["name"]).exists():
        run(["ip", "netns", "del", resource.facts["name"]])


def _release_link(_: Journal, resource: Resource) -> None:
    name = resource.facts["name"]
    if any(link["ifname"] == name for link in json.loads(run(["ip", "-j", "link", "show"]))):
        run(["ip", "link", "del", name])


def _release_mount(_: Journal, resource: Resource) -> None:
    path = resource.facts["path"]
    while path in mounts_below(Path(path)):
        run(["umount", "--lazy", path])


def _release_process(_: Journal, resource: Resource) -> None:
    end_process(resource)


RELEASE: Mapping[str, Callable[[Journal, Resource], None]] = {
    "directory": _release_directory,
    "link": _release_link,
    "mount": _release_mount,
    "netns": _release_netns,
    "process": _release_process,
}

# these outlive a reboot; everything else went with the kernel that held it
LASTING = frozenset({"directory"})


def teardown(journal: Journal) -> tuple[str, ...]:
    """Release everything outstanding, newest first, and return what refused, one line each; then it stays recorded.

    Idempotent: call it again to try again. Resources of an earlier boot are gone with it and only struck off.
    """
    refused = []
    for resource in reversed(journal.outstanding()):
        if journal.of_this_boot or resource.kind in LASTING:
            try:
                RELEASE[resource.kind](journal, resource)
            except (EnvironmentLacking, OSError) as error:
                refused.append(f"{resource.kind} {next(iter(resource.facts.values()))}: {error}")
                continue
        journal.released(resource)
    return tuple(refused)
