"""What differs between two domain XMLs, for people and for tests, and XML without its secrets."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Final

from lxml import etree

from numaferry.request.xml import parse_xml

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Elements that are recognised again by an attribute rather than by their place.
_KEYS: Final = {"vcpupin": "vcpu", "iothreadpin": "iothread", "memnode": "cellid", "cell": "id"}

_QEMU_URI: Final = "http://libvirt.org/schemas/domain/qemu/1.0"
#: Attributes, texts and elements that hold a secret in clear. References to libvirt secrets (uuid, usage) are none.
_SECRET_ATTRIBUTES: Final = (".//*[@passwd]", "passwd"), (".//*[@password]", "password")
_SECRET_ELEMENTS: Final = (
    "launchSecurity/session",
    "launchSecurity/dhCert",
    ".//cookies/cookie",
    ".//source/auth/password",
    "sysinfo[@type='fwcfg']/entry",
)
_SECRET_WORDS: Final = re.compile(r"secret|passw|token|key|data=", re.IGNORECASE)


def strip_secrets(xml: str) -> str:
    """Return a domain XML without passwords, launch secrets, cookies, firmware entries and secret QEMU arguments."""
    root = parse_xml(xml)
    for path, attribute in _SECRET_ATTRIBUTES:
        for element in root.findall(path):
            del element.attrib[attribute]
    for path in _SECRET_ELEMENTS:
        for element in root.findall(path):
            parent = element.getparent()
            if parent is not None:
                parent.remove(element)
    for element in root.iter(f"{{{_QEMU_URI}}}arg", f"{{{_QEMU_URI}}}env"):
        if _SECRET_WORDS.search(f"{element.get('name', '')}={element.get('value', '')}"):
            element.set("value", "(removed)")
    return etree.tostring(root, encoding="unicode")


def changed_paths(before: str, after: str) -> tuple[str, ...]:
    """Return the paths of elements and attributes that were added, removed or changed, ordered.

    A path looks like ``/domain/cputune/vcpupin[@vcpu='1']/@cpuset``; pins, memnodes and cells are recognised by their
    number, interfaces by their MAC, all others by their place among siblings of the same name. White space between
    elements is nothing.
    """
    old, new = dict(_flat(parse_xml(before))), dict(_flat(parse_xml(after)))
    return tuple(sorted(path for path in old.keys() | new.keys() if old.get(path) != new.get(path)))


def _flat(root: etree._Element, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield (path, value) of every element's text and of every attribute."""
    here = path or f"/{root.tag}"
    yield here, (root.text or "").strip()
    for name, value in root.attrib.items():
        yield f"{here}/@{name!s}", str(value)
    seen: dict[str, int] = {}
    for child in root:
        if not isinstance(child.tag, str):
            continue
        seen[child.tag] = seen.get(child.tag, 0) + 1
        yield from _flat(child, f"{here}/{child.tag}{_which(child, seen[child.tag])}")


def _which(element: etree._Element, place: int) -> str:
    """Return what tells an element from its siblings of the same name."""
    tag = str(element.tag)
    key = _KEYS.get(tag)
    if key and element.get(key) is not None:
        return f"[@{key}='{element.get(key)}']"
    mac = element.find("mac") if tag == "interface" else None
    if mac is not None:
        return f"[mac/@address='{mac.get('address')}']"
    return "" if place == 1 else f"[{place}]"


def xml_difference(before: str, after: str) -> str:
    """Return a unified diff of two domain XMLs without secrets, both indented alike; "" where nothing differs."""
    lines = difflib.unified_diff(_lines(before), _lines(after), "source", "dest", lineterm="", n=1)
    return "\n".join(lines)


def _lines(xml: str) -> list[str]:
    """Return the lines of an XML without secrets, indented by two blanks."""
    root = parse_xml(strip_secrets(xml))
    etree.indent(root)
    return etree.tostring(root, encoding="unicode").splitlines()
