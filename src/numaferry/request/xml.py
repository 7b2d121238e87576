"""Reading libvirt XML safely, and its small words: sizes with units, CPU and node lists.

Domain XML comes from hosts and from files that people hand in, so entities are not resolved, nothing is fetched, and
what can't be read is an InvalidInput that never quotes the document (it may hold secrets).
"""

from __future__ import annotations

from typing import Final

from lxml import etree

from numaferry.errors import InvalidInput
from numaferry.model import CpuSet

#: libvirt's units for memory (formatdomain, "memory"); bytes and KB are decimal words there, KiB the default.
_UNIT_BYTES: Final = {
    "b": 1,
    "bytes": 1,
    "KB": 10**3,
    "k": 2**10,
    "KiB": 2**10,
    "MB": 10**6,
    "M": 2**20,
    "MiB": 2**20,
    "GB": 10**9,
    "G": 2**30,
    "GiB": 2**30,
    "TB": 10**12,
    "T": 2**40,
    "TiB": 2**40,
}


def parse_xml(text: str, root: str = "domain") -> etree._Element:
    """Return the root element of `text`; comments and processing instructions are kept.

    Raises InvalidInput for malformed XML, for a document type declaration, and for another root element than `root`.
    """
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)  # noqa: TID251  (the one place)
    try:
        element = etree.fromstring(text.encode(), parser)  # noqa: TID251  (the same)
    except (etree.XMLSyntaxError, ValueError) as error:
        line = error.lineno if isinstance(error, etree.XMLSyntaxError) else 0
        raise InvalidInput(
            f"malformed XML at line {line}", hint=f"it must be what `virsh dumpxml` prints: one <{root}> element"
        ) from None
    if element.getroottree().docinfo.internalDTD is not None:
        raise InvalidInput("XML with a document type declaration is not read", hint="remove the <!DOCTYPE ...>")
    if element.tag != root:
        raise InvalidInput(f"XML of <{element.tag}>, not of <{root}>", hint="it must be what `virsh dumpxml` prints")
    return element


def size_kib(element: etree._Element | None, *, attribute: str | None = None) -> int:
    """Return a size in KiB, from an element's text or from one of its attributes, by its `unit` (KiB by default).

    None is 0. Rounds up as libvirt does; raises InvalidInput for a word that is no size.
    """
    if element is None:
        return 0
    word = (element.get(attribute) if attribute else element.text) or ""
    unit = element.get("unit", "KiB")
    if not word.strip().isdigit() or unit not in _UNIT_BYTES:
        raise InvalidInput(f"<{element.tag}>: {word.strip()!r} {unit} is no size", hint="sizes are numbers in KiB")
    return -(-int(word) * _UNIT_BYTES[unit] // 1024)


def number(element: etree._Element, attribute: str) -> int:
    """Return an attribute as a number of 0 or more; raises InvalidInput that names element and value."""
    word = element.get(attribute, "")
    if not word.strip().isdigit():
        raise InvalidInput(f"<{element.tag} {attribute}={word!r}>: not a number", hint="look at the domain's XML")
    return int(word)


def cpu_list(element: etree._Element | None, attribute: str) -> CpuSet | None:
    """Return a CPU or node list attribute; None where element or attribute are missing or empty."""
    word = None if element is None else element.get(attribute)
    return CpuSet.parse(word) if word and word.strip() else None
