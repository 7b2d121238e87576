"""Numbers of libvirt as our words: states, reasons, capabilities, job statistics. Pure."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numaferry.errors import HypervisorError
from numaferry.model import (
    CpuSet,
    DomainState,
    JobInfo,
    MigrateCall,
    MigrationPolicy,
    Ownership,
    PostCopy,
    Vif,
    VifKind,
)
from numaferry.virt.libvirt import domains, jobs
from numaferry.virt.libvirt.capabilities import parse_capabilities, with_free_pages
from numaferry.virt.libvirt.connection import libvirt
from numaferry.virt.links import link_reason
from numaferry.virt.ownership import manager_of, read_ownership, with_ownership

PREFIXES = {1: "RUNNING", 3: "PAUSED", 5: "SHUTOFF", 6: "CRASHED"}


@pytest.mark.parametrize(("numbers", "word"), domains.REASONS.items())
def test_every_reason_has_the_number_that_the_bindings_give_it(numbers, word):
    state, reason = numbers
    prefix = PREFIXES.get(state, "SHUTDOWN")
    name = f"VIR_DOMAIN_{prefix}_{word.upper().replace('-', '_')}"
    # the last name came with libvirt 9.2; older bindings can't say its number, libvirt's header does
    assert getattr(libvirt, name, {"VIR_DOMAIN_PAUSED_API_ERROR": 14}.get(name)) == reason


def test_law_no_state_or_reason_is_without_a_word():
    for state in range(12):
        for reason in range(40):
            seen, word = domains.state_words(state, reason)
            assert isinstance(seen, DomainState)
            assert word


def test_a_domain_that_is_being_shut_down_still_has_a_process():
    assert domains.state_words(4, 0) == (DomainState.OTHER, "shutting-down")
    assert DomainState.OTHER.active


CAPABILITIES = """
<capabilities><host><uuid>u-1</uuid><topology><cells num='3'>
 <cell id='0'><memory unit='KiB'>4000</memory>
  <pages unit='KiB' size='4'>488</pages><pages unit='KiB' size='2048'>1</pages>
  <distances><sibling id='0' value='10'/><sibling id='4' value='21'/></distances>
  <cpus num='4'>
   <cpu id='0' socket_id='1' die_id='0' core_id='0' siblings='0,4'/>
   <cpu id='1' socket_id='1' die_id='0' core_id='1' siblings='1,5'/>
   <cpu id='4' socket_id='1' die_id='0' core_id='0' siblings='0,4'/><cpu id='5'/></cpus></cell>
 <cell id='4'><memory unit='MiB'>8</memory><pages unit='KiB' size='4'>2048</pages><cpus num='0'></cpus></cell>
 <cell id='9'><cpus num='1'><cpu id='8' socket_id='2' core_id='0' siblings='8'/></cpus></cell>
</cells></topology></host>
<guest><arch name='x86_64'><domain type='qemu'/><domain type='kvm'/></arch></guest>
<guest><arch name='i686'><domain type='qemu'/></arch></guest></capabilities>
"""


def test_capabilities_with_sparse_cells_an_offline_cpu_and_a_cell_without_memory():
    found = parse_capabilities(CAPABILITIES, online=CpuSet.parse("0-1,4,8"))
    cell, memory_only, cpu_only = found.topology.cells
    assert (found.uuid, found.domain_types) == ("u-1", ("kvm", "qemu"))
    assert (cell.cpus, cell.siblings) == (CpuSet.parse("0-1,4"), (CpuSet.parse("0,4"), CpuSet.parse("1")))
    assert cell.socket == 1
    assert cell.distances == ((0, 10), (4, 21))
    assert (memory_only.id, memory_only.memory_kib, memory_only.cpus) == (4, 8192, CpuSet())
    assert memory_only.socket == -5  # on a socket of its own: a device there is near to no other cell
    assert (cpu_only.memory_kib, cpu_only.pages, cpu_only.socket) == (0, (), 2)


def test_an_offline_cpu_that_libvirt_tells_as_a_core_of_its_own_is_left_out():
    """An offline CPU is told by libvirt 9.0 with core 0 and itself as its only sibling (nova LP 2077228)."""
    told = CAPABILITIES.replace("<cpu id='5'/>", "<cpu id='5' socket_id='0' die_id='0' core_id='0' siblings='5'/>")
    cell = parse_capabilities(told, online=CpuSet.parse("0-1,4,8")).topology.cell(0)
    assert (cell.cpus, cell.siblings) == (CpuSet.parse("0-1,4"), (CpuSet.parse("0,4"), CpuSet.parse("1")))


def test_free_pages_are_put_on_the_cell_that_they_are_of():
    found = parse_capabilities(CAPABILITIES, online=CpuSet.parse("0"))
    topology = with_free_pages(found.topology, {0: {2048: 0}, 9: {4: 3}})
    assert topology.cell(0).pool(2048).free == 0
    assert topology.cell(0).pool(4).free == 488
    assert topology.cell(9).pages == ()


@given(st.integers(0, 511))
def test_law_siblings_partition_the_online_cpus(mask):
    found = parse_capabilities(CAPABILITIES, online=CpuSet(mask))
    for cell in found.topology.cells:
        assert sum(len(core) for core in cell.siblings) == len(cell.cpus)
        assert CpuSet.of(cpu for core in cell.siblings for cpu in core) == cell.cpus
        assert cell.cpus <= CpuSet(mask)


def test_a_host_without_cells_is_refused():
    with pytest.raises(HypervisorError, match="no NUMA cell"):
        parse_capabilities("<capabilities><host/></capabilities>", online=CpuSet(1))


def test_ownership_survives_beside_the_elements_of_others():
    xml = (
        "<domain><name>a</name><metadata><nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'>"
        "<nova:name>x</nova:name></nova:instance></metadata></domain>"
    )
    ours = Ownership("l", "c", "m", 3)
    owned = with_ownership(with_ownership(xml, Ownership("l", "old")), ours)
    assert read_ownership(owned) == ours
    assert owned.count("urn:numaferry") == 1
    assert manager_of(owned) == "nova"
    assert read_ownership(with_ownership(owned, None)) is None
    assert manager_of("<domain/>") == ""


@given(st.builds(Ownership, *[st.text("abc-<&'\"0", min_size=1)] * 2, st.text("abc"), st.integers(0, 2**60)))
def test_law_ownership_reads_back_as_written(ownership):
    assert read_ownership(with_ownership("<domain/>", ownership)) == ownership


def test_a_persistent_domain_takes_its_configuration_along_and_a_transient_one_stays_transient():
    persist = libvirt.VIR_MIGRATE_PERSIST_DEST | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
    parameters, flags = jobs.migrate_arguments(
        MigrateCall("u", "qemu:///d", "tcp://1.2.3.4", "<d/>", "<p/>", MigrationPolicy(bandwidth_mib_s=7))
    )
    assert parameters == {
        "destination_xml": "<d/>",
        "persistent_xml": "<p/>",
        "migrate_uri": "tcp://1.2.3.4",
        "bandwidth": 7,
    }
    assert flags & persist == persist
    parameters, flags = jobs.migrate_arguments(MigrateCall("u", "qemu:///d", "", "<d/>"))
    assert parameters == {"destination_xml": "<d/>"}
    assert not flags & persist


def test_secrets_of_an_xml_are_found():
    assert jobs.secrets_in("<domain><graphics passwd='a'/><x><y password='b' passwd=''/></x></domain>", None) in {
        ("a", "b"),
        ("b", "a"),
    }


def test_job_statistics_of_no_job_and_of_a_job_that_is_no_migration():
    assert jobs.job_info({}) is None
    assert jobs.job_info({"type": libvirt.VIR_DOMAIN_JOB_NONE}) is None
    assert jobs.job_info({"type": 2, "operation": libvirt.VIR_DOMAIN_JOB_OPERATION_SAVE}) is None
    figures = {"type": 2, "operation": libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT, "memory_total": 7, "downtime": 3}
    assert jobs.job_info(figures) == JobInfo(memory_total_bytes=7, downtime_ms=3)


def test_a_job_whose_figures_are_not_there_yet_is_a_job():
    """LP 1982284: libvirt raises while QEMU has begun and has no figures; it once ended nova's monitoring."""

    class Domain:
        def jobStats(self, flags=0):  # noqa: N802  (the bindings' name)
            raise libvirt.libvirtError("internal error: migration was active, but no RAM info was set")

    assert jobs.read_job(Domain()) == JobInfo()


def test_a_bridge_needs_no_carrier_but_a_macvtap_parent_does():
    links = {"br0": False, "eth0": False, "eth1": True}
    assert link_reason(Vif("m", VifKind.BRIDGE, "br0"), links) == ""
    assert link_reason(Vif("m", VifKind.DIRECT, "eth1"), links) == ""
    assert link_reason(Vif("m", VifKind.DIRECT, "eth0"), links) == "NIC m: macvtap parent eth0 is down"
    assert "br9 does not exist" in link_reason(Vif("m", VifKind.BRIDGE, "br9"), links)
    assert "no bridge is named" in link_reason(Vif("m", VifKind.BRIDGE, ""), links)


def test_a_policy_becomes_the_flags_and_parameters_that_libvirt_knows():
    policy = MigrationPolicy(
        bandwidth_postcopy_mib_s=9,
        auto_converge=True,
        auto_converge_initial=30,
        post_copy=PostCopy.ON_DEMAND,
        parallel_connections=2,
        compression="zstd",
        tls=True,
    )
    parameters, flags = jobs.policy_arguments(policy)
    assert parameters == {
        "bandwidth.postcopy": 9,
        "auto_converge.initial": 30,
        "parallel.connections": 2,
        "compression": "zstd",
    }
    wanted = ("AUTO_CONVERGE", "POSTCOPY", "PARALLEL", "COMPRESSED", "TLS")
    assert flags == sum(getattr(libvirt, f"VIR_MIGRATE_{word}") for word in wanted)
    assert jobs.policy_arguments(MigrationPolicy(auto_converge_initial=30)) == ({}, 0)
