"""What a guest boots, made from the sources beside this file into the cache, once per content.

What is built is named by a hash of everything it was built from (sources, compiler, flags, kernel), so a stale one is
never used and two builders never spoil each other's work.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from attrs import frozen

from numaferry.lab.commands import run
from numaferry.xdg import cache_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

GuestKind = Literal["tiny", "linux"]

SOURCES = Path(__file__).parent


@frozen
class GuestImage:
    """What a guest of `kind` boots: `kernel` and, for linux, `initrd`, as paths where its QEMU will run."""

    kind: GuestKind
    kernel: Path
    initrd: Path | None = None


def content_key(parts: Iterable[bytes]) -> str:
    """Return a short name for exactly these contents, in this order (hex, 16 digits)."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:16]


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """Return the file `name` of the guests' cache; where it is missing, `make(path)` writes it.

    It appears under its name whole or not at all; of two makers the last one wins, with the same content.
    """
    target = cache_directory() / "guests" / name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".making-") as work:
            draft = Path(work) / name
            make(draft)
            draft.replace(target)
    return target


def compiler() -> str:
    """Return the C compiler's version line. Raises EnvironmentLacking without one."""
    return run(["gcc", "--version"], hint="run tools/setup as root").splitlines()[0]
