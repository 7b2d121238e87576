"""Host configuration in TOML, in nova's words, read without mercy for unknown keys.

::

    [[host]]
    name = "host-a"
    uri = "qemu+tls://host-a/system"
    cpu_dedicated_set = "2-15,^8"
    cpu_shared_set = "0-1"
    migration_cpu_set = "0"
    reserved_host_memory_mb = 512
    reserved_huge_pages = ["node:0,size:2048,count:64"]
    cpu_allocation_ratio = 16.0
    ram_allocation_ratio = 1.0
    physical_networks = { physnet0 = "ens4f0" }
    physical_network_cells = { physnet0 = [0] }
    migration_address = "10.0.0.1"
    peer_uri = "qemu+tls://10.0.0.1/system"
    migration = { downtime_ms = 300, auto_converge = true }

The words and their forms are those of nova.conf (``[compute]`` and ``[DEFAULT]``); `name`, `uri`, `migration_cpu_set`,
`physical_networks`, `migration_address` and `peer_uri` are this project's, and `physical_network_cells` says what
nova's ``[neutron_physnet_NAME] numa_nodes`` says: a guest with a NIC on that network gets one of these cells at least.
"""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Annotated, Any

import attrs
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from numaferry.errors import InvalidInput
from numaferry.model import CpuSet, HostConfig, ReservedPages
from numaferry.service.policies import PolicyTable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_RESERVED = re.compile(r"node:(?P<cell>\d+),size:(?P<size>\d+)(?P<unit>[KMG]i?B)?,count:(?P<count>\d+)", re.IGNORECASE)
_UNIT_KIB = {"k": 1, "m": 1024, "g": 1024 * 1024}


@attrs.frozen(slots=True)
class HostEntry:
    """One ``[[host]]`` of a file; `name` and `uri` empty where they were left out."""

    name: str
    uri: str
    config: HostConfig


def _cpu_list(text: str) -> str:
    """Refuse what libvirt's and nova's CPU list form does not allow."""
    try:
        CpuSet.parse(text)
    except InvalidInput as error:
        raise ValueError(error.message) from None
    return text


def _reserved(text: str) -> str:
    """Refuse what nova's ``reserved_huge_pages`` form does not allow."""
    if not _RESERVED.fullmatch(text.replace(" ", "")):
        raise ValueError("not of the form node:N,size:KIB,count:N")
    return text


CpuList = Annotated[str, AfterValidator(_cpu_list)]
CellId = Annotated[int, Field(ge=0, le=1023)]
Reserved = Annotated[str, AfterValidator(_reserved)]


class _Host(BaseModel):
    """The allowed keys of a ``[[host]]``, their types and limits."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")] = ""
    uri: str = ""
    cpu_dedicated_set: CpuList = ""
    cpu_shared_set: CpuList = ""
    migration_cpu_set: CpuList = ""
    reserved_host_memory_mb: Annotated[int, Field(ge=0)] = 512
    reserved_huge_pages: list[Reserved] = Field(default_factory=list)
    cpu_allocation_ratio: Annotated[float, Field(gt=0, le=1000)] = 16.0
    ram_allocation_ratio: Annotated[float, Field(gt=0, le=1000)] = 1.0
    physical_networks: dict[str, str] = Field(default_factory=dict)
    physical_network_cells: dict[str, list[CellId]] = Field(default_factory=dict)
    migration_address: str = ""
    peer_uri: str = ""
    migration: PolicyTable = Field(default_factory=PolicyTable)


#: What is allowed for a key, for the hint.
ALLOWED = {
    "name": "letters, digits, dot, dash and underscore, at most 63",
    "uri": 'a libvirt URI such as "qemu+tls://host-a/system"',
    "cpu_dedicated_set": 'a CPU list such as "2-15,^8"',
    "cpu_shared_set": 'a CPU list such as "0-1"',
    "migration_cpu_set": 'a CPU list such as "0-1", without dedicated CPUs',
    "reserved_host_memory_mb": "a whole number of MiB, 0 or more",
    "reserved_huge_pages": 'a list of "node:0,size:2048,count:64" (size in KiB, or with a unit: 2MB, 1GB)',
    "cpu_allocation_ratio": "a number above 0",
    "ram_allocation_ratio": "a number above 0",
    "physical_networks": 'a table such as { physnet0 = "ens4f0" }',
    "physical_network_cells": "a table of cell ids such as { physnet0 = [0, 1] }",
    "migration_address": 'an address or name of the host in the migration network, or a URI such as "tcp://host-a:49160"',
    "migration": "a table of a migration's policy, such as { downtime_ms = 300, auto_converge = true }",
    "peer_uri": "the libvirt URI under which other hosts reach this one",
}


def read(path: Path) -> tuple[HostEntry, ...]:
    """Read a file of ``[[host]]`` tables; raises InvalidInput with file, line, key, value and what is allowed."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"can't read {path}: {error.strerror}", hint="give the path of a TOML file") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 text", hint="give the path of a TOML file") from error
    return parse(text, where=str(path))


def parse(text: str, *, where: str) -> tuple[HostEntry, ...]:
    """Read the text of such a file; `where` names it in errors."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{where} is not valid TOML: {error}", hint="see docs/cli.md for an example") from error
    hosts = data.pop("host", None)
    if data:
        raise InvalidInput(f"{where}: unknown table or key {min(data)!r}", hint="only [[host]] tables are read")
    if not isinstance(hosts, list) or not hosts:
        raise InvalidInput(f"{where} has no [[host]] table", hint="write one [[host]] table per host")
    return tuple(_entry(entry, number, text, where) for number, entry in enumerate(hosts, start=1))


def pick(entries: Sequence[HostEntry], name: str, *, where: str) -> HostEntry:
    """Return the entry of this name, or the only one where it bears no name; raises InvalidInput."""
    found = [entry for entry in entries if entry.name == name]
    if len(found) == 1:
        return found[0]
    if not found and len(entries) == 1 and not (name and entries[0].name):
        return entries[0]
    names = ", ".join(entry.name or "(no name)" for entry in entries)
    raise InvalidInput(f"{where} has {len(found)} entries for host {name!r}: {names}", hint="give each host one entry")


def _entry(entry: Any, number: int, text: str, where: str) -> HostEntry:
    """Turn one table into a value."""
    if not isinstance(entry, dict):
        raise InvalidInput(f"{where}: host {number} is no table", hint="write [[host]] with key = value lines")
    try:
        host = _Host.model_validate(entry)
    except ValidationError as error:
        raise _told(error, entry, number, text, where) from None
    return HostEntry(
        host.name,
        host.uri,
        HostConfig(
            cpu_dedicated_set=CpuSet.parse(host.cpu_dedicated_set),
            cpu_shared_set=CpuSet.parse(host.cpu_shared_set),
            migration_cpu_set=CpuSet.parse(host.migration_cpu_set),
            reserved_host_memory_mb=host.reserved_host_memory_mb,
            reserved_huge_pages=tuple(_pages(item) for item in host.reserved_huge_pages),
            cpu_allocation_ratio=host.cpu_allocation_ratio,
            ram_allocation_ratio=host.ram_allocation_ratio,
            physical_networks=tuple(sorted(host.physical_networks.items())),
            physical_network_cells=tuple(
                (network, tuple(sorted(set(cells)))) for network, cells in sorted(host.physical_network_cells.items())
            ),
            migration_address=host.migration_address,
            peer_uri=host.peer_uri,
            migration=host.migration.wish(),
        ),
    )


def _pages(text: str) -> ReservedPages:
    """Read ``node:0,size:2048,count:64``, as nova writes it."""
    found = _RESERVED.fullmatch(text.replace(" ", ""))
    if found is None:
        raise InvalidInput(f"reserved_huge_pages {text!r} can't be read", hint=ALLOWED["reserved_huge_pages"])
    unit = (found["unit"] or "k")[0].lower()
    return ReservedPages(int(found["cell"]), int(found["size"]) * _UNIT_KIB[unit], int(found["count"]))


def _told(error: ValidationError, entry: dict[str, Any], number: int, text: str, where: str) -> InvalidInput:
    """Say the first fault in one line: where, which key, what it is, what is allowed."""
    fault = error.errors(include_url=False)[0]
    key = str(fault["loc"][0]) if fault["loc"] else "?"
    name = entry.get("name") if isinstance(entry.get("name"), str) else ""
    place = f"{where}, line {_line(text, number, key)}, host {name or number}"
    if fault["type"] == "extra_forbidden":
        return InvalidInput(f"{place}: unknown key {key!r}", hint="allowed are " + ", ".join(ALLOWED))
    why = str(fault["msg"]).removeprefix("Value error, ")
    return InvalidInput(f"{place}: {key} = {entry.get(key)!r}: {why}", hint=f"{key} is {ALLOWED.get(key, 'a value')}")


def _line(text: str, number: int, key: str) -> int:
    """Return the line of a key in the nth [[host]] table, or that of the table."""
    seen, table = 0, 1
    for at, line in enumerate(text.splitlines(), start=1):
        if re.match(r"\s*\[\[\s*host\s*\]\]", line):
            seen += 1
            table = at if seen == number else table
        elif seen == number and re.match(rf"\s*(\[host\.)?[\"']?{re.escape(key)}[\"']?\s*[=.\]]", line):
            return at
    return table
