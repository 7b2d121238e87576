"""Pools and volumes as libvirt writes them, and the flags of a call that copies disks."""

import libvirt
import pytest

from numaferry.migration.disks import same_storage
from numaferry.model import CopyStorage, MigrateCall, MigrationPolicy, StoragePool, Volume
from numaferry.virt.libvirt import jobs, storage

NETFS = """
<pool type='netfs'><name>nfs</name><uuid>7d4a8e1c-0000-4000-8000-000000000001</uuid>
<capacity unit='bytes'>1000</capacity><allocation unit='bytes'>400</allocation><available unit='bytes'>600</available>
<source><host name='nas.example.org'/><dir path='/export/'/><format type='nfs'/></source>
<target><path>/mnt/nfs</path></target></pool>
"""
RBD = """
<pool type='rbd'><name>ceph</name><source><host name='mon1' port='6789'/><host name='mon2' port='6789'/>
<name>vms</name><auth type='ceph' username='admin'><secret uuid='7d4a8e1c-0000-4000-8000-000000000002'/></auth></source>
</pool>
"""
VOLUME = """
<volume type='file'><name>db1.qcow2</name><key>/var/db1.qcow2</key><capacity unit='bytes'>67108864</capacity>
<allocation unit='bytes'>200704</allocation><target><path>/var/db1.qcow2</path><format type='qcow2'/></target>
<backingStore><path>/base/debian.img</path><format type='raw'/></backingStore></volume>
"""


def test_a_pool_says_which_storage_it_is():
    assert storage.read_pool(NETFS) == StoragePool(
        "nfs", "netfs", "/mnt/nfs", (("dir", "/export"), ("host", "nas.example.org:")), 600
    )
    ceph = storage.read_pool(RBD)
    assert ceph.source == (("host", "mon1:6789"), ("host", "mon2:6789"), ("name", "vms"))
    assert same_storage(ceph, ceph)


def test_the_user_of_a_pool_and_its_place_in_the_list_do_not_make_it_another():
    there = storage.read_pool(RBD.replace("admin", "other"))
    assert same_storage(storage.read_pool(RBD), there)


def test_a_volume_is_read_with_what_it_is_based_on():
    assert storage.read_volume(VOLUME, "/var/db1.qcow2", "default") == Volume(
        "/var/db1.qcow2", "default", "qcow2", 67108864, 200704, "/base/debian.img", "raw"
    )


def test_the_xml_of_a_volume_to_be_made_reads_as_that_volume_and_allocates_nothing():
    made = Volume("/var/db1.qcow2", "default", "qcow2", 67108864, 0, "/base/debian.img", "raw")
    assert storage.read_volume(storage.volume_xml(made), made.path, made.pool) == made
    assert "backingStore" not in storage.volume_xml(Volume("/a/b", "p", "raw", 1))


DISKS = libvirt.VIR_MIGRATE_NON_SHARED_DISK | libvirt.VIR_MIGRATE_NON_SHARED_INC


@pytest.mark.parametrize(
    ("kind", "flag"),
    [("full", libvirt.VIR_MIGRATE_NON_SHARED_DISK), ("incremental", libvirt.VIR_MIGRATE_NON_SHARED_INC)],
)
def test_a_copy_names_exactly_the_disks_that_are_copied(kind, flag):
    policy = MigrationPolicy(copy_storage=CopyStorage(kind))
    call = MigrateCall("u", "qemu+tcp://b/system", "", "<domain/>", policy=policy, migrate_disks=("vda", "vdc"))
    parameters, flags = jobs.migrate_arguments(call)
    assert parameters[libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS] == ["vda", "vdc"]
    assert flags & DISKS == flag
    assert not flags & libvirt.VIR_MIGRATE_UNSAFE


def test_a_guest_without_a_local_disk_copies_none_whatever_the_policy_says():
    """Libvirt would copy every disk that is not read-only where none is named."""
    policy = MigrationPolicy(copy_storage=CopyStorage.FULL)
    parameters, flags = jobs.migrate_arguments(MigrateCall("u", "b", "", "<domain/>", policy=policy))
    assert not flags & DISKS
    assert libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS not in parameters


def test_only_the_operator_s_word_for_a_disk_lets_libvirt_s_own_check_of_file_systems_be_passed_over():
    policy = MigrationPolicy(shared_storage=True)
    for said in (True, False):
        call = MigrateCall("u", "b", "", "<domain/>", policy=policy, disks_said_shared=said)
        assert bool(jobs.migrate_arguments(call)[1] & libvirt.VIR_MIGRATE_UNSAFE) is said
