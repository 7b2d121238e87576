"""A small fleet for ledger tests: hosts of 2 cells x 2 cores x 2 threads, CPUs 0-1 shared, 2-7 dedicated."""

from __future__ import annotations

import itertools
import sqlite3

import pytest

from numaferry.ledger import ObservedUse, open_ledger
from numaferry.model import (
    EMPTY,
    CellRequest,
    CpuSet,
    Flavor,
    HostConfig,
    HostFacts,
    Instance,
    InstanceCell,
    InstanceNumaTopology,
    NumaRequest,
)
from numaferry.model.notation import parse_topology

NOTATION = "2 cells x 2 cores x 2 threads, 1536M, 2M:128"
MIB = 1024


class Make:
    """Builds values and puts hosts into a ledger."""

    def __init__(self):
        self._numbers = itertools.count(1)

    def facts(self, name, notation=NOTATION, uuid=None):
        return HostFacts(
            name, uuid or f"uuid-of-{name}", f"test:///{name}", parse_topology(notation), 9_000_000, 7_002_000
        )

    def config(self, dedicated="2-7", shared="0-1", **more):
        return HostConfig(cpu_dedicated_set=CpuSet.parse(dedicated), cpu_shared_set=CpuSet.parse(shared), **more)

    def host(self, ledger, name, *, notation=NOTATION, confirmed=True, **config):
        return ledger.add_host(name, self.facts(name, notation), self.config(**config), confirmed)

    def request(self, vcpus=2, memory_mib=64, page_size=2048, cpu_policy="dedicated", **more):
        every = CpuSet.of(range(vcpus))
        pinned = every if cpu_policy == "dedicated" else EMPTY
        cell = CellRequest(0, every, pinned, memory_mib * MIB, page_size)
        return NumaRequest(vcpus, memory_mib * MIB, (cell,), cpu_policy, **more)

    def guest(self, name, host, cpus, *, memory_mib=64, page_size=2048, cell=None):
        """Return a dedicated guest of one cell that is pinned to `cpus` of `host`."""
        pins = tuple(enumerate(CpuSet.parse(cpus)))
        request = self.request(len(pins), memory_mib, page_size)
        every = CpuSet.of(range(len(pins)))
        host_cell = cell if cell is not None else pins[0][1] // 4
        placed = InstanceCell(0, every, every, memory_mib * MIB, page_size or 4, host_cell, pins)
        return self.instance(name, host, request, InstanceNumaTopology((placed,)))

    def floating(self, name, host, vcpus=1, memory_mib=64):
        return self.instance(name, host, NumaRequest(vcpus, memory_mib * MIB), None)

    def instance(self, name, host, request, topology):
        uuid = f"00000000-0000-4000-8000-{next(self._numbers):012d}"
        flavor = Flavor(f"of-{name}", request.vcpus, request.memory_kib // MIB)
        return Instance(uuid, name, host, flavor, request, topology)

    def seen(self, name, cpus="", *, uuid=None, floating=False, vcpus=1, memory_mib=0, pages=()):
        uuid = uuid or f"11111111-0000-4000-8000-{next(self._numbers):012d}"
        return ObservedUse(uuid, name, CpuSet.parse(cpus), floating, vcpus, memory_mib * MIB, pages)


@pytest.fixture
def make():
    return Make()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "ledger.sqlite"


@pytest.fixture
def ledger(path):
    """An empty ledger."""
    opened = open_ledger(str(path))
    yield opened
    opened.close()


@pytest.fixture
def fleet(ledger, make):
    """A ledger with hosts A and B, both confirmed."""
    make.host(ledger, "A")
    make.host(ledger, "B")
    return ledger


@pytest.fixture
def sql(ledger, path):
    """Raw SQL on the same file, past every API; foreign keys on, as any client of the ledger has them."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    yield connection
    connection.close()
