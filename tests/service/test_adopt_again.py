"""A guest that was adopted and could not be marked gets its mark by adopting it again."""

import pytest

from numaferry.errors import HypervisorError
from numaferry.ledger import open_ledger
from numaferry.model import CpuSet, HostConfig, Ownership
from numaferry.service import Ferry
from numaferry.virt.simulated import Fleet

GUEST = (
    "<domain type='kvm'><name>web</name><memory unit='MiB'>64</memory><vcpu placement='static'>2</vcpu>"
    "<os><type arch='x86_64' machine='q35'>hvm</type></os><devices/></domain>"
)
SETS = HostConfig(cpu_dedicated_set=CpuSet.parse("1-3"), cpu_shared_set=CpuSet.parse("0"))


class Locked:
    """A host whose guest another job holds: nobody may change its metadata while `locked` says so."""

    locked = True

    def __init__(self, real):
        self._real = real

    def __getattr__(self, name):
        return getattr(self._real, name)

    def set_ownership(self, uuid, ownership):
        if Locked.locked:
            raise HypervisorError("cannot acquire state change lock")
        self._real.set_ownership(uuid, ownership)


@pytest.mark.parametrize("everything", [False, True])
def test_a_guest_whose_mark_failed_stayed_without_one_for_ever(tmp_path, monkeypatch, everything):
    fleet = Fleet("unmarked")
    fleet.add_host("alpha", "1 cell x 4 cores x 1 thread, 1536M")
    uuid = fleet.start_guest("alpha", GUEST)
    names = [] if everything else ["web"]
    with Ferry(open_ledger(str(tmp_path / "ledger")), lambda _uri: Locked(fleet.hypervisor("alpha"))) as ferry:
        ferry.host_add("alpha", fleet.hypervisor("alpha").uri, config=SETS)
        for _ in range(2):
            (line,) = ferry.adopt(names, everything=everything)
            assert line.outcome == "not marked"
            assert "adopt it again: cannot acquire state change lock" in line.reason
        assert ferry.ledger.instance("web").uuid == uuid, "its claim is held all the same"
        monkeypatch.setattr(Locked, "locked", False)
        (dry,) = ferry.adopt(names, everything=everything, dry_run=True)
        assert dry.reason.endswith("its mark is missing and would be written")
        assert fleet.hypervisor("alpha").domain(uuid).ownership is None
        (line,) = ferry.adopt(names, everything=everything)
        assert (line.outcome, line.reason) == (
            "already adopted",
            "in the ledger on host alpha; its mark was missing and is written now",
        )
        (held,) = ferry.ledger.view("alpha").holdings
        assert fleet.hypervisor("alpha").domain(uuid).ownership == Ownership(ferry.ledger.ledger_id, held.claim_id)
        (line,) = ferry.adopt(names, everything=everything)
        assert line.reason == "in the ledger on host alpha"
    fleet.close()
