"""Which link of the destination carries what a guest's NIC hangs on at the source. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from numaferry.errors import CheckFailed
from numaferry.model import Vif, VifKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numaferry.model import HostConfig

#: Kinds whose `source_dev` is a link of the host; a libvirt network bears one name on every host.
ON_A_LINK = frozenset({VifKind.BRIDGE, VifKind.DIRECT})


def dest_vifs(
    vifs: Iterable[Vif], source_config: HostConfig, dest_name: str, dest_config: HostConfig
) -> tuple[Vif, ...]:
    """Return the NICs with links of the destination that carry the same physical networks.

    A NIC whose physical network nobody named keeps its link's name: the checks then look for that name. Raises
    CheckFailed where the network is known and the destination has no link for it.
    """
    return tuple(_there(vif, source_config, dest_name, dest_config) for vif in vifs)


def _there(vif: Vif, source_config: HostConfig, dest_name: str, dest_config: HostConfig) -> Vif:
    if vif.kind not in ON_A_LINK:
        return vif
    network = vif.physical_network or source_config.physical_network_of(vif.source_dev)
    if network is None:
        return vif
    link = dest_config.link_of(network)
    if link is None:
        raise CheckFailed(
            f"NIC {vif.mac} is on physical network {network}, for which {dest_name} names no link",
            hint=f"name it in the host's configuration: physical_networks = {{ {network} = DEVICE }}",
        )
    return attrs.evolve(vif, source_dev=link, physical_network=network)
