"""How fast a guest dirties its memory, as QEMU measures it (virDomainStartDirtyRateCalc, libvirt 7.2).

Only by sampling pages. The other modes switch dirty logging on, as a migration does, and QEMU 7.2 without KVM ends
itself in mode dirty-bitmap: the guest is gone (tried with libvirt 9.0).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from numaferry.errors import HypervisorError
from numaferry.model import DirtySample
from numaferry.virt.libvirt.connection import libvirt

if TYPE_CHECKING:
    from numaferry.virt.libvirt.connection import Connection

_KIB: Final = 1024
_MIB: Final = 1 << 20
#: libvirt has the answer when the period is over; a host under load may be late.
_LATE_S: Final = 10.0
_POLL_S: Final = 0.1


def resident_bytes(domain: libvirt.virDomain) -> int:
    """Return the resident set of a domain's QEMU, 0 where the host does not tell."""
    return int(domain.memoryStats().get("rss", 0)) * _KIB


def measure(connection: Connection, uuid: str, period_s: int) -> DirtySample:
    """Measure once, for so many whole seconds (libvirt takes 1 to 60). Raises HypervisorError where none comes."""

    def start(opened: libvirt.virConnect) -> None:
        opened.lookupByUUIDString(uuid).startDirtyRateCalc(period_s, libvirt.VIR_DOMAIN_DIRTYRATE_MODE_PAGE_SAMPLING)

    connection.call(start, what="dirty_rate")
    deadline = time.monotonic() + period_s + _LATE_S
    time.sleep(period_s)
    while time.monotonic() < deadline:
        found = connection.call(lambda opened: _read(opened, uuid), what="dirty_rate")
        if found is not None:
            return found
        time.sleep(_POLL_S)
    raise HypervisorError(
        f"QEMU has measured for {period_s} s how fast memory is dirtied, and told nothing {_LATE_S:.0f} s later",
        hint="look whether the guest still runs, then try again",
    )


def _read(opened: libvirt.virConnect, uuid: str) -> DirtySample | None:
    """Return the measurement that has ended, None while it runs."""
    domain = opened.lookupByUUIDString(uuid)
    stats = opened.domainListGetStats([domain], libvirt.VIR_DOMAIN_STATS_DIRTYRATE)[0][1]
    if stats.get("dirtyrate.calc_status") != libvirt.VIR_DOMAIN_DIRTYRATE_MEASURED:
        return None
    period_s, mib_s = stats["dirtyrate.calc_period"], stats["dirtyrate.megabytes_per_second"]
    # QEMU rounds down to whole MiB/s
    return DirtySample(float(period_s), round((mib_s + 0.5 if mib_s else 0) * period_s * _MIB))
