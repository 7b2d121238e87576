"""The lab's own network: a namespace with a management and a data bridge, and one cable to the machine outside.

::

    this machine ── <id>out ═veth═ <id>in ─┐                 (10.77.n.1 outside)
                                          mgmt ── taps m1, m2, …   hosts at 10.77.n.11, .12, …
                                          data ── taps d1, d2, …   no address: the guests' network

Bridges and taps are in the namespace, so only the cable's outer end has a name and an address out here; nothing is
forwarded or translated, and no sysctl of the machine is touched.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import secrets
import socket
import time
from typing import TYPE_CHECKING

from attrs import frozen

from numaferry.errors import EnvironmentLacking
from numaferry.lab.commands import run
from numaferry.lab.resources import make_link, make_netns

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numaferry.lab.journal import Journal

Network = ipaddress.IPv4Network

MANAGEMENT_BRIDGE = "mgmt"
DATA_BRIDGE = "data"
FIRST_HOST = 11
# 10.77 first, since it was never seen taken; the others for machines whose company uses all of 10/8 or 172.16/12
RANGES = (Network("10.77.0.0/16"), Network("172.29.0.0/16"), Network("192.168.128.0/17"))


def free_subnets(taken: Iterable[Network], ranges: Iterable[Network] = RANGES) -> Iterator[Network]:
    """Yield the /24 networks of `ranges` that touch none of `taken`, in order."""
    occupied = tuple(taken)
    for candidate in (subnet for each in ranges for subnet in each.subnets(new_prefix=24)):
        if not any(candidate.overlaps(network) for network in occupied):
            yield candidate


def choose_subnets(taken: Iterable[Network], count: int) -> tuple[Network, ...]:
    """Return `count` free /24 networks. Raises EnvironmentLacking when the ranges are used up."""
    taken = tuple(taken)
    chosen = tuple(subnet for subnet, _ in zip(free_subnets(taken), range(count), strict=False))
    if len(chosen) < count:
        tried = ", ".join(str(each) for each in RANGES)
        raise EnvironmentLacking(
            f"{count} free /24 networks wanted in {tried}, {len(chosen)} found beside {len(taken)} in use",
            hint="bring down labs that are no longer needed (numaferry lab status)",
        )
    return chosen


def taken_networks() -> tuple[Network, ...]:
    """Return the IPv4 networks of this machine's addresses and of all its routes but the default ones."""
    addresses = json.loads(run(["ip", "-j", "-4", "addr", "show"]))
    routes = json.loads(run(["ip", "-j", "-4", "route", "show", "table", "all"]) or "[]")
    found = [f"{each['local']}/{each['prefixlen']}" for link in addresses for each in link.get("addr_info", ())]
    found += [route["dst"] for route in routes if route["dst"] not in ("default", "0.0.0.0/0")]
    return tuple(dict.fromkeys(ipaddress.IPv4Network(each, strict=False) for each in found))


def new_id() -> str:
    """Return a short id for a lab that no link or namespace of this machine begins with: `nf` and six hex digits."""
    names = {link["ifname"] for link in json.loads(run(["ip", "-j", "link", "show"]))}
    while True:
        lab_id = f"nf{secrets.token_hex(3)}"
        if not any(name.startswith(lab_id) for name in names):
            return lab_id


@contextlib.contextmanager
def addressing(timeout_s: float = 30) -> Iterator[None]:
    """Be the only lab that chooses addresses in this machine's network: between probing and taking lies a moment.

    Held by an abstract socket name (unix(7)), which belongs to the network namespace and vanishes with its holder.
    """
    deadline = time.monotonic() + timeout_s
    with socket.socket(socket.AF_UNIX) as guard:
        while True:
            try:
                guard.bind("\0numaferry-lab-addressing")
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise EnvironmentLacking(
                        f"another lab has been choosing addresses for {timeout_s:g} s",
                        hint="look for a hanging `lab up`",
                    ) from error
                time.sleep(0.05)
        yield


@frozen
class LabNetwork:
    """A lab's network as made: namespace, subnet (/24) and the outer machine's address in it."""

    lab_id: str
    netns: str
    subnet: str
    outer_ip: str

    def host_ip(self, index: int) -> str:
        """Return the address of the host with `index` (0-based)."""
        return str(ipaddress.IPv4Network(self.subnet)[FIRST_HOST + index])


def make_network(journal: Journal, lab_id: str) -> LabNetwork:
    """Make the namespace, both bridges and the cable, with an address outside; taps come with `make_tap()`."""
    netns = make_netns(journal, f"numaferry-{lab_id}")
    for bridge in (MANAGEMENT_BRIDGE, DATA_BRIDGE):
        # no spanning tree and no waiting: a port forwards as soon as it is up
        run(["ip", "-n", netns, "link", "add", bridge, "type", "bridge", "stp_state", "0", "forward_delay", "0"])
        run(["ip", "-n", netns, "link", "set", bridge, "up"])
    outer, inner = f"{lab_id}out", f"{lab_id}in"
    with addressing():
        (subnet,) = choose_subnets(taken_networks(), 1)
        make_link(journal, outer, ["type", "veth", "peer", "name", inner, "netns", netns])
        run(["ip", "addr", "add", f"{subnet[1]}/24", "dev", outer])
        run(["ip", "link", "set", outer, "up"])
    run(["ip", "-n", netns, "link", "set", inner, "master", MANAGEMENT_BRIDGE, "up"])
    return LabNetwork(lab_id=lab_id, netns=netns, subnet=str(subnet), outer_ip=str(subnet[1]))


def make_tap(network: LabNetwork, name: str, bridge: str) -> str:
    """Make a tap in the lab's namespace, on one of its bridges; it goes with the namespace."""
    run(["ip", "-n", network.netns, "tuntap", "add", "dev", name, "mode", "tap"])
    run(["ip", "-n", network.netns, "link", "set", name, "master", bridge, "up"])
    return name
