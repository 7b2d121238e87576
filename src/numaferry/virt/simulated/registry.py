"""Fleets of this process by name, for ``sim://FLEET/HOST``."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from numaferry.errors import Conflict, HostUnreachable, InvalidInput

if TYPE_CHECKING:
    from numaferry.virt.port import Hypervisor
    from numaferry.virt.simulated.fleet import Fleet

_fleets: dict[str, Fleet] = {}


def register(fleet: Fleet) -> None:
    """Make a fleet known by its name. Raises Conflict where another one has it."""
    if fleet.name in _fleets:
        raise Conflict(
            f"a simulated fleet {fleet.name!r} exists in this process", hint="close it, or name this otherwise"
        )
    _fleets[fleet.name] = fleet


def forget(fleet: Fleet) -> None:
    """Take the fleet out; nothing happens where it is not known."""
    if _fleets.get(fleet.name) is fleet:
        del _fleets[fleet.name]


def split(uri: str) -> tuple[str, str]:
    """Return fleet and host of ``sim://FLEET/HOST``. Raises InvalidInput."""
    parts = urlsplit(uri)
    host = parts.path.strip("/")
    if parts.scheme != "sim" or not parts.netloc or not host:
        raise InvalidInput(f"{uri!r} names no simulated host", hint="write it like sim://FLEET/HOST")
    return parts.netloc, host


def connect(uri: str) -> Hypervisor:
    """Open a simulated host.

    Raises InvalidInput, NotFound (no such host), HostUnreachable (no such fleet in this process, or cut off).
    """
    name, host = split(uri)
    if name not in _fleets:
        raise HostUnreachable(
            f"{uri}: no simulated fleet {name!r} in this process",
            hint="a simulated fleet lives only in the process that made it",
        )
    return _fleets[name].hypervisor(host)
