"""Who plays: the guests of the demo, where they start, and what the hosts' operators configured.

On a host of 2 cells x 2 cores x 2 threads the CPUs are 0-3 (cell 0) and 4-7 (cell 1); of each cell one is shared,
three are dedicated. db1 has one CPU and 2 MiB pages on each cell; noisy1 sits on host B on the very same CPU numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from numaferry.lab.guests import GuestCell, GuestSpec, MacvtapNic, put_in_share

if TYPE_CHECKING:
    from pathlib import Path

    from numaferry.demo.stage import Stage
    from numaferry.lab.guests import GuestImage

NOTATIONS = ("2 cells x 2 cores x 2 threads, 1536M, 2M:128", "2 cells x 2 cores x 2 threads, 1536M, 2M:128")
DEDICATED = "1-3,5-7"
SHARED = "0,4"
PHYSICAL_NETWORK = "physnet0"
DB1_MAC = "52:54:00:db:01:01"
DB1_PINS = {0: "2", 1: "6"}
CELL_MIB = 32


def image(stage: Stage) -> GuestImage:
    """Build the lab's tiny guest and put it where all hosts see it."""
    return put_in_share(stage.lab, "tiny")


def _two_cells(stage: Stage, name: str, made: GuestImage, nics: tuple[MacvtapNic, ...] = ()) -> GuestSpec:
    return GuestSpec(
        name=name,
        image=made,
        serial=stage.source.share / f"{name}.serial",
        domain_type=stage.lab.guest_type,
        vcpus=2,
        cells=(GuestCell("0", CELL_MIB, "0"), GuestCell("1", CELL_MIB, "1")),
        vcpu_pins=DB1_PINS,
        emulator_pin=",".join(DB1_PINS.values()),
        hugepages=True,
        nics=nics,
    )


def db1(stage: Stage, made: GuestImage) -> GuestSpec:
    """Return the guest that moves: two cells, a CPU of its own on each, 2 MiB pages, a macvtap NIC."""
    return _two_cells(stage, "db1", made, (MacvtapNic(stage.source.data_links[0], DB1_MAC),))


def twin1(stage: Stage, made: GuestImage) -> GuestSpec:
    """Return the throw-away twin that is moved the way people do it today; no NIC, or it would not even start there."""
    return _two_cells(stage, "twin1", made)


def noisy1(stage: Stage, made: GuestImage) -> GuestSpec:
    """Return the guest that already sits on host B, on the CPUs and cells that db1 has on host A."""
    return _two_cells(stage, "noisy1", made)


def db2(stage: Stage, made: GuestImage) -> GuestSpec:
    """Return the guest that can't fit on host B at first: two CPUs of their own in one cell."""
    return GuestSpec(
        name="db2",
        image=made,
        serial=stage.source.share / "db2.serial",
        domain_type=stage.lab.guest_type,
        vcpus=2,
        cells=(GuestCell("0-1", CELL_MIB, "0"),),
        vcpu_pins={0: "1", 1: "3"},
        emulator_pin="1,3",
        hugepages=True,
    )


def host_row(name: str, uri: str, link: str, *, dedicated: str, shared: str, address: str = "") -> str:
    """Return one host of a hosts file, as its operator would write it, in nova's words."""
    return f"""[[host]]
name = "{name}"
uri = "{uri}"
cpu_dedicated_set = "{dedicated}"
cpu_shared_set = "{shared}"
reserved_host_memory_mb = 512
physical_networks = {{ {PHYSICAL_NETWORK} = "{link}" }}
migration_address = "{address}"
"""


def hosts_toml(stage: Stage, *, dedicated: str = DEDICATED, shared: str = SHARED) -> Path:
    """Write the hosts file of a lab and return it."""
    rows = [
        host_row(host.name, host.uri, host.data_links[0], dedicated=dedicated, shared=shared, address=host.ip)
        for host in stage.lab.hosts
    ]
    path = stage.folder / "hosts.toml"
    path.write_text("\n".join(rows), encoding="utf-8")
    return path
