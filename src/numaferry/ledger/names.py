"""Under which name a device is promised: its kind, then what identifies it on its host (``pci:0000:81:00.1``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numaferry.model import PciDevice


def device_name(device: PciDevice) -> str:
    """Return the name under which a device is promised."""
    return f"pci:{device.address}"
