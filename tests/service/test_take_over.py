"""Recovering everything leaves alone what another controller has taken over since it was looked at."""

import os

from numaferry.ledger import open_ledger
from numaferry.migration.controllers import name_of
from numaferry.model import CpuSet, HostConfig
from numaferry.service import Ferry
from numaferry.service.driving import engine_for
from numaferry.virt.simulated import Fleet

SETS = HostConfig(cpu_dedicated_set=CpuSet.parse("1-3"), cpu_shared_set=CpuSet.parse("0"))
GONE = name_of(999_999_999, "1")
ANOTHER = f"elsewhere:{os.getpid()}:1"


def guest(name):
    return (
        f"<domain type='kvm'><name>{name}</name><memory unit='MiB'>64</memory><vcpu placement='static'>1</vcpu>"
        "<os><type arch='x86_64' machine='q35'>hvm</type></os><devices/></domain>"
    )


class TakesTheSecond:
    """While the first migration is recovered, another controller takes the second one over."""

    def __init__(self, ledger):
        self.ledger = ledger

    def started(self, line):
        if line.id == 1:
            self.ledger.take_lease(2, ANOTHER, 30.0, grace_s=60.0, gone=GONE, key="the other one's")

    def progress(self, migration, job):
        """Nothing to show."""


def test_recovering_all_does_not_take_a_migration_from_who_drives_it_by_then(tmp_path):
    fleet = Fleet("takeover")
    for name in ("alpha", "beta"):
        fleet.add_host(name, "1 cell x 4 cores x 1 thread, 1536M")
    for name in ("one", "two"):
        fleet.start_guest("alpha", guest(name))

    def connect(uri):
        return fleet.hypervisor(uri.rpartition("/")[2])

    with Ferry(open_ledger(str(tmp_path / "ledger")), connect) as ferry:
        for name in ("alpha", "beta"):
            ferry.host_add(name, fleet.hypervisor(name).uri, config=SETS)
        ferry.adopt(everything=True)
        engine = engine_for(ferry.ledger, ferry._reach)
        for name in ("one", "two"):
            move = engine.start(ferry.ledger.instance(name), "beta")
            ferry.ledger.take_lease(move.id, GONE, 30.0, grace_s=60.0, gone=move.controller, key=f"{move.id} killed")
        ferry.migration_recover(watch=TakesTheSecond(ferry.ledger))
        assert not ferry.ledger.migration(1).in_progress
        assert ferry.ledger.migration(2).in_progress
        assert ferry.ledger.migration(2).controller == ANOTHER
    fleet.close()
