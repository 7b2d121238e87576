"""The lab's own guests: built here from source, seen from outside by what they write on their serial line."""

from __future__ import annotations

from numaferry.lab.guests.build import guest_image, put_in_share
from numaferry.lab.guests.domain_xml import BridgeNic, GuestCell, GuestSpec, MacvtapNic, domain_xml
from numaferry.lab.guests.frames import Frame, listening
from numaferry.lab.guests.image import GuestImage, GuestKind
from numaferry.lab.guests.serial_watch import SerialParser, SerialReport, SerialWatch

__all__ = [
    "BridgeNic",
    "Frame",
    "GuestCell",
    "GuestImage",
    "GuestKind",
    "GuestSpec",
    "MacvtapNic",
    "SerialParser",
    "SerialReport",
    "SerialWatch",
    "domain_xml",
    "guest_image",
    "listening",
    "put_in_share",
]
