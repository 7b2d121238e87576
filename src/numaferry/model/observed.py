"""What one domain is seen to use on its host: reality beside the ledger's promises, for domains adopted or not."""

from __future__ import annotations

import attrs

from numaferry.model.cpuset import CpuSet  # noqa: TC001  (cattrs reads the annotations when it runs)


@attrs.frozen(slots=True)
class ObservedUse:
    """What a domain uses of its host by its XML; nothing about it is unique, two domains may share a CPU.

    `pinned_cpus` are closed to new claims where they are dedicated ones. `floating` says that some of its vCPUs or
    emulator threads may run on any CPU of the host. Memory is charged per cell where the pages are bound (`pages`) and
    per host otherwise.
    """

    uuid: str
    name: str
    #: Host CPUs that its threads are confined to; empty where nothing confines them.
    pinned_cpus: CpuSet
    floating: bool
    vcpus: int
    memory_kib: int
    #: (host cell, page size in KiB, pages) where the XML binds memory to one cell; ordered.
    pages: tuple[tuple[int, int, int], ...] = ()
    #: The ledger manages it: its claim counts, this is for the audit.
    managed: bool = False
