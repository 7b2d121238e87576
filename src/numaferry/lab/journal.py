"""The lab's journal: every resource is on disk before it exists, so that nothing a crash leaves behind is unknown.

One JSON object per line, only ever appended, each line flushed to disk before the next thing happens. A line that a
crash cut short belongs to a resource that was never created (intent comes first), so it is dropped.

::

    {"boot": "463e9415-…"}                                           first line: which boot of the machine this is
    {"seq": 1, "kind": "netns", "facts": {"name": "numaferry-3fa2c1"}}   intent
    {"seq": 2, "kind": "process", "facts": {"token": "…"}}
    {"seq": 2, "facts": {"pid": 4711, "start": 99812}}                   what became known after creation
    {"seq": 2, "released": true}
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from attrs import evolve, field, frozen

if TYPE_CHECKING:
    from pathlib import Path

Facts = dict[str, Any]


@frozen
class Resource:
    """One thing the lab made or is about to make on this machine: `kind` names its row in `resources.RELEASE`."""

    seq: int
    kind: str
    facts: Facts = field(factory=dict)


def boot_id() -> str:
    """Return the kernel's identifier of this boot: processes, links and mounts of another boot are gone."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:  # noqa: PTH123 - a path of the kernel's, not of ours
        return file.read().strip()


class Journal:
    """The journal in `path`; reading it needs no lock, writing it is for the holder of the lab's lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.boot = boot_id()
        self._outstanding: dict[int, Resource] = {}
        self._last = 0
        self._read()

    def _read(self) -> None:
        text = self.path.read_bytes() if self.path.exists() else b""
        whole, newline, _torn = text.rpartition(b"\n")
        for line in whole.splitlines() if newline else []:
            self._apply(json.loads(line))

    def _apply(self, entry: Facts) -> None:
        if "boot" in entry:
            self.boot = entry["boot"]
            return
        seq = entry["seq"]
        self._last = max(self._last, seq)
        if entry.get("released"):
            self._outstanding.pop(seq, None)
        elif "kind" in entry:
            self._outstanding[seq] = Resource(seq=seq, kind=entry["kind"], facts=entry["facts"])
        elif seq in self._outstanding:
            known = self._outstanding[seq]
            self._outstanding[seq] = evolve(known, facts={**known.facts, **entry["facts"]})

    def _append(self, entry: Facts) -> None:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            whole = os.pread(descriptor, size, 0).rfind(b"\n") + 1
            os.ftruncate(descriptor, whole)
            if whole == 0:
                self.boot = boot_id()
                whole += os.pwrite(descriptor, json.dumps({"boot": self.boot}).encode() + b"\n", 0)
            os.pwrite(descriptor, json.dumps(entry).encode() + b"\n", whole)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._apply(entry)

    @property
    def of_this_boot(self) -> bool:
        """Whether the machine still runs the boot in which the resources were made."""
        return self.boot == boot_id()

    def intend(self, kind: str, **facts: Any) -> Resource:
        """Write that a resource of `kind` is about to be made, and return its record. Call it *before* making it."""
        resource = Resource(seq=self._last + 1, kind=kind, facts=facts)
        self._append({"seq": resource.seq, "kind": kind, "facts": facts})
        return resource

    def amend(self, resource: Resource, **facts: Any) -> Resource:
        """Add what became known of a resource after its creation (a pid), or before its release."""
        self._append({"seq": resource.seq, "facts": facts})
        return self._outstanding[resource.seq]

    def released(self, resource: Resource) -> None:
        """Write that a resource is gone."""
        self._append({"seq": resource.seq, "released": True})

    def outstanding(self) -> tuple[Resource, ...]:
        """Return what was intended and not released, oldest first."""
        return tuple(self._outstanding[seq] for seq in sorted(self._outstanding))

    def remove(self) -> None:
        """Delete the journal's file; only right when nothing is outstanding."""
        self.path.unlink(missing_ok=True)
