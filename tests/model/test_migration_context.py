"""The mutated context is the one way by which new pins and links reach the destination."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numaferry.model import (
    CellRequest,
    CpuSet,
    Flavor,
    Instance,
    InstanceCell,
    InstanceNumaTopology,
    MigrationContext,
    NumaRequest,
    Vif,
    VifKind,
    codec,
    mutated_migration_context,
)


def topology(cpu: int) -> InstanceNumaTopology:
    cell = InstanceCell(
        id=0,
        vcpus=CpuSet.of([0]),
        pinned_vcpus=CpuSet.of([0]),
        memory_kib=65536,
        page_size_kib=2048,
        host_cell=cpu // 4,
        cpu_pinning=((0, cpu),),
    )
    return InstanceNumaTopology(cells=(cell,))


def instance(old_cpu: int = 0, new_cpu: int = 6) -> Instance:
    vif = Vif(mac="52:54:00:00:00:01", kind=VifKind.DIRECT, source_dev="ens4f0", physical_network="physnet0")
    return Instance(
        uuid="u",
        name="db1",
        host="lab1",
        flavor=Flavor("adopted-db1", 1, 64, (("hw:cpu_policy", "dedicated"),)),
        request=NumaRequest(
            vcpus=1, memory_kib=65536, cells=(CellRequest(0, CpuSet.of([0]), CpuSet.of([0]), 65536, 2048),)
        ),
        numa_topology=topology(old_cpu),
        vifs=(vif,),
        migration_context=MigrationContext(
            old_numa_topology=topology(old_cpu),
            new_numa_topology=topology(new_cpu),
            old_vifs=(vif,),
            new_vifs=(attrs.evolve(vif, source_dev="enp7s0"),),
        ),
    )


def test_mutated_instance_has_the_new_pins_and_links_and_the_old_instance_is_untouched():
    before = instance()
    after = mutated_migration_context(before)
    assert after.numa_topology is not None
    assert after.numa_topology.cpu_pinning == ((0, 6),)
    assert after.vifs[0].source_dev == "enp7s0"
    assert before == instance()


def test_without_a_context_the_old_pins_would_travel_so_it_is_refused():
    with pytest.raises(ValueError, match="old pins"):
        mutated_migration_context(attrs.evolve(instance(), migration_context=None))


@given(st.integers(0, 200), st.integers(0, 200))
def test_instance_with_context_survives_json(old_cpu, new_cpu):
    value = instance(old_cpu, new_cpu)
    assert codec.loads(codec.dumps(value), Instance) == value
