"""What a person types for a guest with local disks, and what is shown for it."""

import pytest
from cli_world import guest_xml

IMAGES = "/var/lib/libvirt/images"
PATH = f"{IMAGES}/db1.img"
DISK = f"<disk type='file'><driver type='raw'/><source file='{PATH}'/><target dev='vda'/></disk>"


@pytest.fixture
def disks(world):
    """The world with a guest db1 on alpha that has one image in a pool; both hosts have that pool."""
    for host in ("alpha", "beta"):
        world.fleet.add_pool(host, "default", IMAGES)
    world.fleet.add_image("alpha", PATH, size_mib=64, content="data")
    world.fleet.start_guest("alpha", guest_xml("db1", (2, 6), (0, 1)).replace("</devices>", f"{DISK}</devices>"))
    world.manage()
    return world


def test_a_local_disk_is_refused_and_the_hint_names_both_ways(disks):
    ran = disks.run("migrate", "db1", "--dest", "beta")
    assert ran.code == 5
    assert f"vda is on alpha at {PATH}: nothing proves that beta sees the same" in ran.err
    assert "hint: if both hosts see it, say --shared-storage; to copy it with the guest, --copy-storage=full" in ran.err


def test_a_dry_run_shows_the_verdict_on_each_disk_and_what_helps(disks):
    out = " ".join(disks.ok("migrate", "db1", "--dest", "beta", "--dry-run").split())
    assert "nothing proves that beta sees the same; if both hosts see it, say --shared-storage" in out
    assert "It would not start" in out
    out = " ".join(disks.ok("migrate", "db1", "--dest", "beta", "--dry-run", "--copy-storage").split())
    assert f"vda is copied whole to {PATH} on beta, 64 MiB" in out


def test_the_command_for_virsh_copies_the_same_disks(disks):
    out = disks.ok("migrate", "db1", "--dest", "beta", "--as-virsh", "--copy-storage=full")
    assert "--copy-storage-all --migrate-disks vda" in out


def test_a_copy_is_told_at_the_end_and_recorded_with_the_migration(disks):
    out = disks.ok("migrate", "db1", "--dest", "beta", "--copy-storage=full")
    assert f"the disk images on alpha stay as they were at the switch: {PATH} (vda)" in " ".join(out.split())
    assert "copy_storage = full" in disks.ok("migration", "show", "1")
    assert disks.fleet.hosts["beta"].files[PATH].content == "data"


def test_the_word_for_a_guest_s_disks_can_be_said_once_and_taken_back_for_one_move(disks):
    disks.ok("instance", "policy", "db1", "--shared-storage")
    disks.fleet.hosts["beta"].files[PATH] = disks.fleet.hosts["alpha"].files[PATH]
    assert disks.run("migrate", "db1", "--dest", "beta", "--no-shared-storage").code == 5
    disks.ok("migrate", "db1", "--dest", "beta")
    shown = disks.ok("migration", "show", "1")
    assert "shared_storage = True" in shown
    assert "by the operator's word" in " ".join(shown.split())
