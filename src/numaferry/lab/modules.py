"""Kernel modules: which a host needs, in the order in which they can be inserted, read from the modules themselves.

Each module names those it needs in its `.modinfo` section, so neither depmod nor modprobe is needed on either side.
"""

from __future__ import annotations

import lzma
import re
from typing import TYPE_CHECKING

from numaferry.errors import EnvironmentLacking
from numaferry.lab.commands import run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_NAME = re.compile(r"^(?P<name>.+)\.ko(?P<packed>\.xz|\.zst)?$")


def _read(path: Path) -> bytes:
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        plain = path.with_suffix("")
        if not plain.exists():
            run(["zstd", "-d", "-q", str(path), "-o", str(plain)], hint="apt-get install zstd")
        return plain.read_bytes()
    return path.read_bytes()


def plain_name(name: str) -> str:
    """Return a module's name as the kernel writes it: dashes and underscores are one."""
    return name.replace("-", "_")


def index(tree: Path) -> dict[str, Path]:
    """Return the modules below `tree` (a /lib/modules/VERSION) by their plain names."""
    found = {}
    for path in sorted(tree.rglob("*.ko*")):
        if match := _NAME.match(path.name):
            found[plain_name(match["name"])] = path
    return found


def needed_by(module: bytes) -> tuple[str, ...]:
    """Return the plain names of the modules that a module's own `.modinfo` says it needs."""
    match = re.search(rb"\0depends=([^\0]*)\0", module)
    return tuple(plain_name(name) for name in match[1].decode().split(",") if name) if match else ()


def built_in(tree: Path) -> frozenset[str]:
    """Return the plain names of what is compiled into the kernel of `tree`."""
    lines = (tree / "modules.builtin").read_text(encoding="utf-8").splitlines()
    return frozenset(plain_name(line.rpartition("/")[2].removesuffix(".ko")) for line in lines)


def ordered(wanted: Iterable[str], tree: Path) -> Mapping[str, bytes]:
    """Return the contents of the `wanted` modules and of all they need, each after what it needs.

    What is compiled in is left out. Raises EnvironmentLacking for a module that the kernel doesn't have.
    """
    known, compiled_in = index(tree), built_in(tree)
    result: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in result or name in compiled_in:
            return
        if name not in known:
            raise EnvironmentLacking(
                f"the kernel in {tree} has no module {name}", hint="a full kernel is needed, not a cloud one"
            )
        data = _read(known[name])
        for each in needed_by(data):
            add(each)
        result[name] = data

    for name in wanted:
        add(plain_name(name))
    return result
