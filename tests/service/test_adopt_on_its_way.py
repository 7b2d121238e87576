"""A guest that another client is moving just now is not adopted on the host where it only arrives."""

import pytest

from numaferry.errors import NotManaged
from numaferry.ledger import open_ledger
from numaferry.model import CpuSet, HostConfig
from numaferry.service import Ferry
from numaferry.virt.simulated import Fleet

GUEST = (
    "<domain type='kvm'><name>web</name><memory unit='MiB'>64</memory><vcpu placement='static'>2</vcpu>"
    "<os><type arch='x86_64' machine='q35'>hvm</type></os><devices/></domain>"
)


@pytest.mark.parametrize("reason", ["migration", "starting-up"])
def test_adopting_everything_in_the_middle_of_a_foreign_move_adopts_the_guest_where_it_runs(tmp_path, reason):
    """The half on the destination came first by its host's name: its claim was taken there, none where it ran."""
    fleet = Fleet("onitsway")
    for name in ("arrives", "leaves"):
        fleet.add_host(name, "1 cell x 4 cores x 1 thread, 1536M")
    uuid = fleet.start_guest("leaves", GUEST)
    fleet.hosts["arrives"].begin(GUEST.replace("<name>", f"<uuid>{uuid}</uuid><name>", 1), reason=reason)
    sets = HostConfig(cpu_dedicated_set=CpuSet.parse("1-3"), cpu_shared_set=CpuSet.parse("0"))
    with Ferry(open_ledger(str(tmp_path / "ledger")), lambda uri: fleet.hypervisor(uri.rpartition("/")[2])) as ferry:
        for name in ("arrives", "leaves"):
            ferry.host_add(name, fleet.hypervisor(name).uri, config=sets)
        with pytest.raises(NotManaged, match="it is on its way"):
            ferry.adopt(["web"], host="arrives")
        outcomes = {line.host: line.outcome for line in ferry.adopt(everything=True)}
        assert outcomes == {"arrives": "skipped", "leaves": "adopted"}
        assert ferry.ledger.instance("web").host == "leaves"
    fleet.close()
