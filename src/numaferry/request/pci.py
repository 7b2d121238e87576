"""``pci_passthrough:alias``: which devices a flavor asks for, by the names an operator gave them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from numaferry.model import PciRequest
from numaferry.request import specs as read
from numaferry.request.words import invalid, parse_int

if TYPE_CHECKING:
    from numaferry.request.specs import Specs

#: Alias → the (vendor, product) pairs it stands for, four hex digits each; nova's ``[pci] alias``.
Products = tuple[tuple[str, str], ...]
PciAliases = Mapping[str, Products]


def pci_requests(specs: Specs, aliases: PciAliases) -> tuple[PciRequest, ...]:
    """Return one request for each ``alias:count`` of the flavor, with hw:pci_numa_affinity_policy (default legacy).

    Raises InvalidRequest: InvalidPCINUMAAffinity, ImagePCINUMAPolicyForbidden, PciRequestAliasNotDefined, and
    PciInvalidAlias for a part that is not ``name:count``.
    """
    policy = read.pci_policy(specs) or "legacy"
    wanted = specs.extra.get("pci_passthrough:alias") or ""
    requests = []
    for part in filter(None, (piece.strip() for piece in wanted.split(","))):
        name, _, number = (word.strip() for word in part.partition(":"))
        count = parse_int(number) or 0
        if not name or count < 1:
            raise invalid("PciInvalidAlias", f"pci_passthrough:alias={wanted!r}: {part!r} is not NAME:COUNT", "nic:2")
        if name not in aliases:
            raise invalid(
                "PciRequestAliasNotDefined",
                f"pci_passthrough:alias={wanted!r}: no alias {name!r} is defined",
                f"defined are: {', '.join(sorted(aliases)) or 'none'}",
            )
        requests.append(PciRequest(name, count, aliases[name], policy))
    return tuple(requests)
