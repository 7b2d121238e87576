"""A file of hosts configures the machines it was written for; it accepts no other one."""

import pytest

from numaferry.errors import Conflict, NotConfirmed
from numaferry.ledger import open_ledger
from numaferry.model import CpuSet, HostConfig
from numaferry.service import Ferry
from numaferry.service.config import HostEntry
from numaferry.virt.simulated import Fleet

SETS = HostConfig(cpu_dedicated_set=CpuSet.parse("1-3"), cpu_shared_set=CpuSet.parse("0"))
LESS = HostConfig(cpu_dedicated_set=CpuSet.parse("2-3"), cpu_shared_set=CpuSet.parse("0"))
OTHER = "00000000-0000-4000-8000-00000000beef"


@pytest.fixture
def fleet():
    made = Fleet("imported")
    for name in ("alpha", "beta"):
        made.add_host(name, "1 cell x 4 cores x 1 thread, 1536M")
    yield made
    made.close()


@pytest.fixture
def ferry(fleet, tmp_path):
    def connect(uri):
        return fleet.hypervisor(uri.rpartition("/")[2])

    with Ferry(open_ledger(str(tmp_path / "ledger")), connect) as opened:
        yield opened


def entries(fleet, config, **uris):
    names = uris or {name: name for name in ("alpha", "beta")}
    return [HostEntry(name=name, uri=fleet.hypervisor(leads).uri, config=config) for name, leads in names.items()]


@pytest.mark.parametrize("audited", [True, False], ids=["quarantined before", "found by the import itself"])
def test_importing_a_quarantined_host_ended_its_quarantine_silently(ferry, fleet, audited):
    ferry.import_hosts(entries(fleet, SETS))
    accepted = ferry.ledger.host("beta").uuid
    fleet.hosts["beta"].uuid = OTHER
    if audited:
        ferry.ledger.update_host("beta", fleet.hypervisor("beta").facts())
    with pytest.raises(
        NotConfirmed, match=f"beta is quarantined: its host UUID was {accepted} and is {OTHER}"
    ) as caught:
        ferry.import_hosts(entries(fleet, LESS))
    assert "numaferry host confirm beta accepts" in caught.value.hint
    assert ferry.ledger.host("beta").state == "quarantined"
    assert [one.config.cpu_dedicated_set for one in ferry.ledger.hosts()] == [SETS.cpu_dedicated_set] * 2
    ferry.host_confirm("beta")
    assert {one.state for one in ferry.import_hosts(entries(fleet, LESS))} == {"reachable"}


def test_a_mistyped_uri_in_a_file_pointed_a_confirmed_host_at_another_machine(ferry, fleet):
    ferry.import_hosts(entries(fleet, SETS, alpha="alpha"))
    before = ferry.ledger.host("alpha")
    with pytest.raises(Conflict, match="and host alpha is machine"):
        ferry.import_hosts(entries(fleet, SETS, alpha="beta"))
    assert ferry.ledger.host("alpha") == before
