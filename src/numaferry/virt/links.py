"""Links under NICs, judged: pure, shared by both sides of the port."""

from __future__ import annotations

from typing import TYPE_CHECKING

from numaferry.model import VifKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numaferry.model import Vif


def link_reason(vif: Vif, links: Mapping[str, bool]) -> str:
    """Return why this bridge or macvtap NIC can't be plugged given these links (name → up); "" if it can."""
    what = "bridge" if vif.kind is VifKind.BRIDGE else "macvtap parent"
    if not vif.source_dev:
        return f"NIC {vif.mac}: no {what} is named for it"
    if vif.source_dev not in links:
        return f"NIC {vif.mac}: {what} {vif.source_dev} does not exist (links here: {', '.join(sorted(links))})"
    # a bridge without a carrier still takes a tap; a macvtap on a link that is down passes nothing
    if vif.kind is VifKind.DIRECT and not links[vif.source_dev]:
        return f"NIC {vif.mac}: {what} {vif.source_dev} is down"
    return ""
