"""Our element in a domain's metadata, and the elements of other managers. Pure: XML text in, values out.

It holds the ledger's id and the claim's, so that a claim can be found again from the guest alone, and nothing secret.
libvirt keeps one element per namespace and lets it travel in the migratable XML
(https://libvirt.org/formatdomain.html, "General metadata").
"""

from __future__ import annotations

from lxml import etree

from numaferry.model import METADATA_PREFIX, METADATA_URI, Ownership
from numaferry.request.xml import parse_xml

_TAG = f"{{{METADATA_URI}}}guest"

#: Beginning of a metadata namespace → who manages the guest. nova: nova/virt/libvirt/config.py, NOVA_NS.
MANAGERS = {"http://openstack.org/xmlns/libvirt/nova/": "nova"}


def _metadata(xml: str) -> list[etree._Element]:
    """Return the children of a domain's ``<metadata>``."""
    found = parse_xml(xml).find("metadata")
    return [] if found is None else [child for child in found if isinstance(child.tag, str)]


def read_ownership(xml: str) -> Ownership | None:
    """Return what we wrote into this domain's metadata; None where there is nothing, or nothing that can be read."""
    for child in _metadata(xml):
        ledger_id, claim_id = child.get("ledger"), child.get("claim")
        if child.tag == _TAG and ledger_id and claim_id:
            token = child.get("token", "0")
            return Ownership(
                ledger_id=ledger_id,
                claim_id=claim_id,
                migration_uuid=child.get("migration", ""),
                token=int(token) if token.isdecimal() else 0,
            )
    return None


def _attributes(ownership: Ownership) -> dict[str, str]:
    """Return the attributes of our element; what says nothing is left out."""
    known = {
        "ledger": ownership.ledger_id,
        "claim": ownership.claim_id,
        "migration": ownership.migration_uuid,
        "token": str(ownership.token or ""),
    }
    return {name: value for name, value in known.items() if value}


def ownership_element(ownership: Ownership) -> str:
    """Return the element without a namespace, as virDomainSetMetadata wants it (it adds prefix and namespace)."""
    return etree.tostring(etree.Element("guest", _attributes(ownership)), encoding="unicode")


def with_ownership(xml: str, ownership: Ownership | None) -> str:
    """Return the domain XML with our element set or, for None, removed; everything else as it was."""
    root = parse_xml(xml)
    metadata = root.find("metadata")
    if metadata is not None:
        for child in metadata.findall(_TAG):
            metadata.remove(child)
    if ownership is not None:
        if metadata is None:
            metadata = etree.SubElement(root, "metadata")
        etree.SubElement(metadata, _TAG, _attributes(ownership), nsmap={METADATA_PREFIX: METADATA_URI})
    return etree.tostring(root, encoding="unicode")


def manager_of(xml: str) -> str:
    """Return the word for the system that manages this guest beside us ("nova"), or ""."""
    for child in _metadata(xml):
        namespace = etree.QName(child).namespace or ""
        for beginning, manager in MANAGERS.items():
            if namespace.startswith(beginning):
                return manager
    return ""
