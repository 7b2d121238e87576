"""Writing an initial RAM file system, in the "newc" archive format that Linux unpacks (its early-userspace document).

Written here because no tool for it is on a fresh machine, and because archives made of the same entries must be the
same bytes. The kernel unpacks several archives laid end to end, which lets one big archive serve all hosts and a small
one make each host what it is. Not compressed: unpacking would cost an emulated machine more than reading.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Iterable

MAGIC = "070701"
TRAILER = "TRAILER!!!"


@frozen
class Entry:
    """A file, directory or device node of an archive: `mode` with its type bits, `device` as (major, minor)."""

    path: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(path: str) -> Entry:
    """Return a directory's entry."""
    return Entry(path=path, mode=stat.S_IFDIR | 0o755)


def file(path: str, data: bytes, *, executable: bool = False) -> Entry:
    """Return a file's entry."""
    return Entry(path=path, mode=stat.S_IFREG | (0o755 if executable else 0o644), data=data)


def character_device(path: str, major: int, minor: int) -> Entry:
    """Return a character device's entry."""
    return Entry(path=path, mode=stat.S_IFCHR | 0o600, device=(major, minor))


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def _record(inode: int, entry: Entry) -> bytes:
    name = entry.path.encode() + b"\0"
    fields = (inode, entry.mode, 0, 0, 1, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
    header = (MAGIC + "".join(f"{value:08x}" for value in fields)).encode()
    return _padded(header + name) + _padded(entry.data)


def archive(entries: Iterable[Entry]) -> bytes:
    """Return the archive of `entries`, in their order: owned by root, of time zero, so the same bytes every time."""
    records = [_record(inode, entry) for inode, entry in enumerate(entries, start=1)]
    return b"".join([*records, _record(0, Entry(path=TRAILER, mode=0))])
