"""The verdict on each disk: shared only where it is proven or said, copied only onto nothing, else refused."""

import attrs
import pytest

from numaferry.errors import CheckFailed
from numaferry.migration.checks import failures, refuse
from numaferry.migration.disks import DisksView, Verdict, check_disks, is_untouched, judge, same_storage
from numaferry.model import CopyStorage, DiskSize, HostStorage, MigrationPolicy, StoragePool, Volume
from numaferry.request import guest_disks

MIB = 1 << 20
NFS = (("dir", "/export"), ("host", "nas.example.org:"))
IMAGES = "/var/lib/libvirt/images"

NOTHING = MigrationPolicy()
SAID = MigrationPolicy(shared_storage=True)
FULL = MigrationPolicy(copy_storage=CopyStorage.FULL)
INCREMENTAL = MigrationPolicy(copy_storage=CopyStorage.INCREMENTAL)
BOTH = MigrationPolicy(copy_storage=CopyStorage.INCREMENTAL, shared_storage=True)


def disk(source, *, kind="file", driver="raw", device="disk", more="", target="vda"):
    return (
        f"<disk type='{kind}' device='{device}'><driver name='qemu' type='{driver}'/>{source}"
        f"<target dev='{target}'/>{more}</disk>"
    )


def file(path=f"{IMAGES}/db1.img", **words):
    return disk(f"<source file='{path}'/>", **words)


def overlay(base="/base/debian.qcow2"):
    below = f"<backingStore type='file'><format type='qcow2'/><source file='{base}'/><backingStore/></backingStore>"
    return file(driver="qcow2", more=below)


def pool(name="default", target=IMAGES, kind="dir", source=(), room=1 << 40):
    return StoragePool(name, kind, target, source, room)


def volume(path, capacity=64 * MIB, allocation=MIB, kind="raw"):
    return Volume(path, "default", kind, capacity, allocation)


def view(*disks, here=(), there=(), volumes=(), sizes=None):
    """A guest with these disks between alpha, with the pools `here`, and beta, with the pools `there`."""
    found = guest_disks(f"<domain><devices>{''.join(disks)}</devices></domain>")
    return DisksView(
        "alpha",
        "beta",
        found,
        {one.target: DiskSize(64 * MIB, 32 * MIB) for one in found} if sizes is None else sizes,
        HostStorage(tuple(here)),
        HostStorage(tuple(there), {one.path: one for one in volumes}),
    )


def verdict(seen, policy=NOTHING):
    [one] = judge(seen, policy)
    return one.verdict


def test_a_guest_without_disks_says_so():
    [check] = check_disks(view(), NOTHING)
    assert check.reason == "no disks"


@pytest.mark.parametrize(
    ("xml", "expected"),
    [
        (disk("", kind="file", device="cdrom", target="sda"), Verdict.EMPTY),
        (disk("<source/>", kind="block", device="cdrom", target="sda"), Verdict.EMPTY),
        (disk("<source protocol='rbd' name='p/db1'><host name='mon1'/></source>", kind="network"), Verdict.PROVEN),
        (disk("<source/>", kind="network"), Verdict.PROVEN),
        (disk("<source protocol='nbd'><host name='localhost'/></source>", kind="network"), Verdict.REFUSED),
        (disk("<source><host transport='unix' socket='/run/n'/></source>", kind="network"), Verdict.REFUSED),
        (file(), Verdict.REFUSED),
        (disk("<source dev='/dev/sdb'/>", kind="block"), Verdict.REFUSED),
        (disk("<source type='unix' path='/run/vhost.sock'/>", kind="vhostuser"), Verdict.REFUSED),
    ],
)
def test_what_the_guest_s_own_xml_proves(xml, expected):
    assert verdict(view(xml)) is expected


def test_a_disk_that_nothing_proves_is_refused_and_both_options_are_named():
    checks = check_disks(view(file()), NOTHING)
    with pytest.raises(CheckFailed) as caught:
        refuse(checks, "db1 can't go to beta")
    assert "vda is on alpha at /var/lib/libvirt/images/db1.img" in caught.value.message
    assert "nothing proves that beta sees the same" in caught.value.message
    assert "--shared-storage" in caught.value.hint
    assert "--copy-storage" in caught.value.hint


def test_every_disk_has_its_reason_at_once():
    seen = view(file(), file("/srv/log.img", target="vdb"), disk("<source/>", kind="network", target="vdc"))
    assert [check.reason.split()[0] for check in failures(check_disks(seen, NOTHING))] == ["vda", "vdb"]


# proven by pools


def test_the_same_network_pool_on_both_hosts_proves_it():
    nfs = pool(kind="netfs", source=NFS)
    assert verdict(view(file(), here=[nfs], there=[nfs])) is Verdict.PROVEN


def test_what_lies_deeper_than_a_network_pools_directory_was_held_for_proven():
    """There another file system may be mounted, on each host its own."""
    nfs = pool(kind="netfs", source=NFS)
    below = file(f"{IMAGES}/local/db1.img")
    assert verdict(view(below, here=[nfs], there=[nfs])) is Verdict.REFUSED


def test_a_volume_of_a_pool_that_both_hosts_have_is_proven():
    xml = disk("<source pool='ceph' volume='db1'/>", kind="volume")
    rbd = pool("ceph", "", "rbd", (("host", "mon1:6789"), ("name", "vms")))
    assert verdict(view(xml, here=[rbd], there=[rbd])) is Verdict.PROVEN
    assert verdict(view(xml, here=[rbd])) is Verdict.REFUSED


@pytest.mark.parametrize(
    "there",
    [
        pool(kind="netfs", source=(("dir", "/other"), ("host", "nas.example.org:"))),
        pool(kind="netfs", source=(("dir", "/export"), ("host", "nas2.example.org:"))),
        pool(kind="gluster", source=NFS),
        pool(kind="netfs", source=NFS, target="/mnt"),
        pool(kind="dir"),
    ],
)
def test_a_pool_that_differs_in_anything_proves_nothing(there):
    assert verdict(view(file(), here=[pool(kind="netfs", source=NFS)], there=[there])) is Verdict.REFUSED


@pytest.mark.parametrize("kind", ["dir", "fs", "logical", "disk", "zfs", "scsi"])
def test_a_directory_or_device_of_the_same_name_on_both_hosts_proves_nothing(kind):
    same = pool(kind=kind, source=(("device", "/dev/vg0"), ("name", "vg0")))
    assert not same_storage(same, same)
    assert verdict(view(file(), here=[same], there=[same])) is Verdict.REFUSED


@pytest.mark.parametrize("server", ["localhost", "127.0.0.1", "::1", ""])
def test_a_server_that_is_each_host_itself_proves_nothing(server):
    own = pool(kind="netfs", source=(("dir", "/export"), ("host", f"{server}:")))
    assert not same_storage(own, own)


def test_a_pool_whose_name_only_begins_like_the_path_does_not_hold_it():
    nfs = pool(kind="netfs", source=NFS, target="/var/lib/libvirt/im")
    assert verdict(view(file(), here=[nfs], there=[nfs])) is Verdict.REFUSED


def test_an_image_on_shared_storage_above_one_that_is_local_is_not_shared():
    nfs = pool(kind="netfs", source=NFS)
    [one] = judge(view(overlay(), here=[nfs], there=[nfs]), NOTHING)
    assert one.verdict is Verdict.REFUSED
    assert "what it is based on, /base/debian.qcow2 on alpha, is not known to be" in one.reason


# said by the operator


def test_the_operator_s_word_is_taken_and_told():
    [one] = judge(view(file()), SAID)
    assert one.verdict is Verdict.SAID
    assert "by the operator's word" in one.reason


def test_the_operator_s_word_is_refused_where_the_destination_s_own_pool_contradicts_it():
    assert verdict(view(file(), there=[pool()]), SAID) is Verdict.REFUSED
    assert verdict(view(file(), there=[pool()], volumes=[volume(f"{IMAGES}/db1.img")]), SAID) is Verdict.SAID


# read-only


def test_a_read_only_image_goes_where_one_of_the_same_size_lies_and_that_is_said():
    xml = file("/iso/debian.iso", device="cdrom", more="<readonly/>")
    there = [pool("iso", "/iso")]
    assert verdict(view(xml, there=there)) is Verdict.REFUSED
    assert verdict(view(xml, there=there, volumes=[volume("/iso/debian.iso", 63 * MIB)])) is Verdict.REFUSED
    seen = view(xml, there=there, volumes=[volume("/iso/debian.iso")])
    assert verdict(seen) is verdict(seen, FULL) is Verdict.LOOKALIKE
    assert not failures(check_disks(seen, NOTHING))


# copied


def test_a_local_disk_is_copied_into_the_destination_s_directory_pool_with_its_size_and_format():
    [one] = judge(view(file(driver="qcow2"), there=[pool()]), FULL)
    assert one.verdict is Verdict.COPY
    assert one.volume == Volume(f"{IMAGES}/db1.img", "default", "qcow2", 64 * MIB)
    assert one.reason == f"vda is copied whole to {IMAGES}/db1.img on beta, 64 MiB"


def test_a_volume_of_a_directory_pool_is_copied_to_the_pool_of_that_name():
    xml = disk("<source pool='vms' volume='db1.img'/>", kind="volume")
    [one] = judge(view(xml, here=[pool("vms", "/a")], there=[pool("vms", "/b")]), FULL)
    assert (one.verdict, one.volume.path, one.volume.pool) == (Verdict.COPY, "/b/db1.img", "vms")
    assert one.origin == "/a/db1.img", "what stays on the source is told by its path there"


def test_a_proven_disk_is_never_copied_onto_itself():
    nfs = pool(kind="netfs", source=NFS)
    assert verdict(view(file(), here=[nfs], there=[nfs]), FULL) is Verdict.PROVEN


@pytest.mark.parametrize(
    ("seen", "policy", "why"),
    [
        (view(file(), there=[pool()], volumes=[volume(f"{IMAGES}/db1.img")]), FULL, "it may be this very one"),
        (view(file(), there=[]), FULL, f"beta has no active storage pool for {IMAGES}"),
        (view(file(), there=[pool(target="/elsewhere")]), FULL, "beta has no active storage pool"),
        (view(file(), there=[pool(kind="netfs", source=NFS)]), FULL, "of type netfs"),
        (view(file(), there=[pool(kind="netfs", source=NFS, target="/var/lib")]), FULL, "of type netfs"),
        (view(file(), there=[pool(kind="fs")]), FULL, "of type fs"),
        (view(file(more="<shareable/>"), there=[pool()]), FULL, "is shareable"),
        (view(file(driver="vmdk"), there=[pool()]), FULL, "has format vmdk"),
        (view(file(), there=[pool()], sizes={}), FULL, "how big vda is, alpha does not say"),
        (view(disk("<source dev='/dev/sdb'/>", kind="block"), there=[pool()]), FULL, "is a block device"),
        (view(file(), there=[pool()]), attrs.evolve(FULL, shared_storage=True), "said to be shared and to be copied"),
        (view(overlay(), there=[pool()]), INCREMENTAL, "nothing proves that /base/debian.qcow2"),
        (view(overlay(), there=[pool()]), BOTH, "no pool of beta has /base/debian.qcow2"),
    ],
)
def test_what_is_not_copied(seen, policy, why):
    [one] = judge(seen, policy)
    assert one.verdict is Verdict.REFUSED
    assert why in one.reason
    assert one.hint


def test_what_forbids_a_copy_is_said_at_once():
    [one] = judge(view(file(more="<shareable/>", driver="vmdk"), there=[]), FULL)
    assert all(words in one.reason for words in ("shareable", "vmdk", "no active storage pool"))


def test_a_whole_copy_of_an_overlay_is_based_on_nothing():
    [one] = judge(view(overlay(), there=[pool()]), FULL)
    assert (one.verdict, one.volume.backing_path) == (Verdict.COPY, "")


def test_an_incremental_copy_is_made_above_a_base_that_is_said_or_proven_to_be_the_same():
    base = volume("/base/debian.qcow2", kind="qcow2")
    said = view(overlay(), there=[pool(), pool("base", "/base")], volumes=[base])
    nfs = pool("base", "/base", "netfs", NFS)
    proven = view(overlay(), here=[nfs], there=[pool(), nfs], volumes=[base])
    for seen, policy in ((said, BOTH), (proven, INCREMENTAL)):
        [one] = judge(seen, policy)
        assert one.verdict is Verdict.COPY, one.reason
        assert (one.volume.backing_path, one.volume.backing_format) == ("/base/debian.qcow2", "qcow2")
    assert verdict(said, INCREMENTAL) is Verdict.REFUSED


def test_too_little_room_for_all_copies_together_is_one_reason_with_numbers():
    seen = view(file(), file(f"{IMAGES}/log.img", target="vdb"), there=[pool(room=63 * MIB)])
    [check] = failures(check_disks(seen, FULL))
    assert check.name == "disk-space"
    assert check.reason == "pool default of beta has room for 63 MiB, what is copied takes 64 MiB on alpha"


def test_an_image_is_as_it_was_made_only_with_its_size_and_format_and_nothing_in_it():
    made = Volume("/a", "p", "qcow2", 64 * MIB)
    assert is_untouched(attrs.evolve(made, allocation_bytes=200_000), made)
    assert not is_untouched(attrs.evolve(made, allocation_bytes=2 * MIB), made)
    assert not is_untouched(attrs.evolve(made, format="raw"), made)
    assert not is_untouched(attrs.evolve(made, capacity_bytes=65 * MIB), made)
