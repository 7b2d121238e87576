"""Disks on the fleet: what is copied arrives whole, and what is undone removes what this migration made and no more."""

import contextlib
import re

import pytest

from numaferry.errors import CheckFailed, HypervisorError, NumaferryError
from numaferry.migration import images
from numaferry.migration.answers import Answer
from numaferry.migration.images import noted
from numaferry.migration.move import Move
from numaferry.model import CopyStorage, JobInfo, MigrationPolicy, MigrationStatus
from numaferry.virt.simulated import SCENARIOS, ClientDied

IMAGES = "/var/lib/libvirt/images"
VDA, VDB = f"{IMAGES}/db1.img", f"{IMAGES}/log.img"
DISKS = "".join(
    f"<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{path}'/><target dev='{name}'/>"
    "</disk>"
    for path, name in ((VDA, "vda"), (VDB, "vdb"))
)
FULL = MigrationPolicy(copy_storage=CopyStorage.FULL)
SAID = MigrationPolicy(shared_storage=True)


class Crash(BaseException):
    """The controller is gone, as by kill -9."""


@pytest.fixture
def uuid(site):
    """A guest with two disks on alpha; alpha and beta have a pool for their directory."""
    for host in ("alpha", "beta"):
        site.fleet.add_pool(host, "default", IMAGES)
    for path in (VDA, VDB):
        site.fleet.add_image("alpha", path, size_mib=64, content=f"written to {path}")
    return site.guest(extra=DISKS)


def files(site, host):
    return {path: image.content for path, image in site.fleet.hosts[host].files.items()}


def whole(site, uuid, *, moved):
    """Assert that the guest has its data, that the source keeps its images, and the destination has no others."""
    site.settled(uuid, moved=moved)
    written = {path: f"written to {path}" for path in (VDA, VDB)}
    assert files(site, "alpha") == written, "an image of the source was touched"
    assert files(site, "beta") == (written if moved else {}), site.story()
    assert site.fleet.lives[uuid].lost_disks == []


def drive(site, policy=FULL, **engine):
    made = site.engine(**engine)
    return made.drive(made.start(site.ledger.instance("db1"), "beta", policy).id)


def test_local_disks_are_copied_and_the_source_s_images_stay_and_are_told(site, uuid):
    assert drive(site).status is MigrationStatus.COMPLETED
    whole(site, uuid, moved=True)
    said = site.sentences()
    assert f"vda is copied whole to {VDA} on beta, 64 MiB; vdb is copied whole to {VDB} on beta, 64 MiB" in said
    assert f"made {VDA} on beta for vda" in said
    [kept] = [one for one in said if one.startswith("the disk images on alpha stay")]
    assert f"{VDA} (vda), {VDB} (vdb)" in kept
    assert "virsh -c sim://" in kept


def test_what_was_said_is_recorded_with_the_migration(site, uuid):
    drive(site)
    assert site.ledger.migration(1).policy.copy_storage is CopyStorage.FULL


def test_the_copy_of_disks_is_told_while_it_runs_and_keeps_to_the_bandwidth(site, uuid):
    site.fleet.observe(lambda _: seen.append(site.fleet.jobs[uuid].info()) if uuid in site.fleet.jobs else None)
    seen: list[JobInfo] = []
    drive(site, MigrationPolicy(copy_storage=CopyStorage.FULL, bandwidth_mib_s=32))
    assert {job.disk_total_bytes for job in seen} == {128 << 20}
    under_way = [job for job in seen if job.disk_remaining_bytes]
    assert len(under_way) >= 10, "128 MiB at 32 MiB/s take 4 s"
    assert all(job.memory_processed_bytes == 0 for job in under_way)


def test_nothing_said_refuses_before_anything_is_claimed_or_made(site, uuid):
    with pytest.raises(CheckFailed, match="vda is on alpha") as caught:
        drive(site, MigrationPolicy())
    assert "--shared-storage" in caught.value.hint
    assert site.ledger.migrations() == ()
    assert files(site, "beta") == {}


def test_a_file_that_lies_at_the_destination_s_path_refuses_the_copy_and_stays(site, uuid):
    site.fleet.add_image("beta", VDB, content="somebody's")
    with pytest.raises(CheckFailed, match=rf"beta has an image at {re.escape(VDB)} already"):
        drive(site)
    assert files(site, "beta") == {VDB: "somebody's"}


def test_one_file_that_both_hosts_see_is_never_copied_onto_itself(site, uuid):
    for path in (VDA, VDB):
        site.fleet.hosts["beta"].files[path] = site.fleet.hosts["alpha"].files[path]
    with pytest.raises(CheckFailed, match="it may be this very one"):
        drive(site)
    assert drive(site, SAID).status is MigrationStatus.COMPLETED
    whole(site, uuid, moved=True)
    assert "shared by the operator's word" in "\n".join(site.sentences())


def test_a_file_that_appears_after_the_check_is_neither_copied_onto_nor_removed(site, uuid):
    def appears(migration, job):
        if migration.step == "pre_live_migration" and job is None:
            site.fleet.add_image("beta", VDB, content="somebody's")

    with pytest.raises(CheckFailed, match="already"):
        drive(site, on_progress=appears)
    site.settled(uuid, moved=False)
    assert files(site, "beta") == {VDB: "somebody's"}


def test_libvirt_s_own_refusal_to_make_an_image_removes_those_that_were_made(site, uuid):
    """The path is taken between our look and libvirt's."""

    def taken(migration, job):
        if job is None and dict(migration.source_memo).get("disk_copies", "").count('"made": true') == 1:
            site.fleet.add_image("beta", VDB, content="somebody's", size_mib=64)

    with pytest.raises(NumaferryError, match="already exists"):
        drive(site, on_progress=taken)
    site.settled(uuid, moved=False)
    assert files(site, "beta") == {VDB: "somebody's"}, site.story()


def test_a_disk_that_is_plugged_in_after_they_were_judged_ends_the_move_before_its_job(site, uuid):
    """With the operator's word libvirt does not look at file systems any more, so it would not refuse the new disk."""
    for path in (VDA, VDB):
        site.fleet.hosts["beta"].files[path] = site.fleet.hosts["alpha"].files[path]

    def plugged(migration, job):
        domain = site.fleet.hosts["alpha"].domains[uuid]
        if job is None and migration.step == "live_migration" and "vdc" not in domain.live:
            new = DISKS.partition("</disk>")[0].replace("vda", "vdc").replace(VDA, f"{IMAGES}/new.img") + "</disk>"
            domain.live = domain.live.replace("</devices>", f"{new}</devices>")

    with pytest.raises(CheckFailed, match="disks of db1 have changed"):
        drive(site, SAID, on_progress=plugged)
    site.settled(uuid, moved=False)


def test_the_time_that_a_policy_gives_counts_what_is_copied_of_disks_too(site, uuid):
    """Two disks of 600 MiB take 5 s at 256 MiB/s; the guest's memory alone would be given 4 s."""
    for path in (VDA, VDB):
        site.fleet.hosts["alpha"].files[path].capacity_bytes = 600 << 20
    site.fleet.pace_s = 0.002
    policy = MigrationPolicy(copy_storage=CopyStorage.FULL, completion_timeout_s_per_gib=4)
    assert drive(site, policy).status is MigrationStatus.COMPLETED
    whole(site, uuid, moved=True)


def test_a_copy_that_fails_removes_its_images(site, uuid):
    site.fleet.inject_named("aborted")
    with pytest.raises(NumaferryError):
        drive(site)
    whole(site, uuid, moved=False)
    assert f"removing the copy of vda at {VDA} on beta: done" in site.sentences()
    # and another attempt finds its place free
    assert drive(site).status is MigrationStatus.COMPLETED
    site.settled(uuid, moved=True)


def recovered(site):
    site.fleet.heal()
    site.fleet.advance(5)
    for migration in site.ledger.migrations():
        if migration.in_progress:
            site.recover(migration.id)


@pytest.mark.parametrize("commit", range(1, 40))
def test_a_controller_that_dies_after_any_commit_leaves_no_image_behind(site, uuid, commit):
    left = [commit]

    def dies(_migration, job):
        if job is None:
            left[0] -= 1
            if not left[0]:
                raise Crash

    with contextlib.suppress(Crash, NumaferryError):
        drive(site, on_progress=dies)
    recovered(site)
    whole(site, uuid, moved=site.fleet.running_on(uuid) == ("beta",))


CALLS = [("alpha", "storage"), ("alpha", "disk_sizes"), ("beta", "storage"), ("beta", "create_volume")]


@pytest.mark.parametrize("action", ["refuse", "client-dies", "cut-controller-host"])
@pytest.mark.parametrize("edge", ["call", "return"])
@pytest.mark.parametrize("where", CALLS, ids=".".join)
def test_a_call_for_disks_that_fails_or_is_the_last_leaves_no_image_behind(site, uuid, where, edge, action):
    host, method = where
    engine = site.engine()
    migration = engine.start(site.ledger.instance("db1"), "beta", FULL)
    site.fleet.inject(f"{edge}.{method}", action, host=host)
    with contextlib.suppress(NumaferryError, ClientDied):
        engine.drive(migration.id)
    recovered(site)
    if (method, edge, action) == ("create_volume", "return", "refuse"):
        # libvirt says that it did not make what it has made: nobody can know, and nothing is removed on a guess
        site.settled(uuid, moved=False)
        return
    if (method, action) == ("create_volume", "cut-controller-host"):
        # the claim is not held for a host that is away: what was made there is told
        site.settled(uuid, moved=False)
        assert not files(site, "beta") or "is left to the audit" in "\n".join(site.sentences())
        return
    whole(site, uuid, moved=site.fleet.running_on(uuid) == ("beta",))


ENDS_ELSEWHERE = {"source-dies", "guest-shuts-down", "guest-crashes", "split-brain"}
NEEDS_A_PERSON = {"source-libvirtd-restarts-in-confirm"}


@pytest.mark.parametrize("scenario", sorted(set(SCENARIOS) - ENDS_ELSEWHERE - NEEDS_A_PERSON - {"pins-ignored"}))
def test_the_fleet_s_named_faults_in_the_middle_of_a_copy(site, uuid, scenario):
    site.fleet.inject_named(scenario)
    with contextlib.suppress(NumaferryError, ClientDied):
        drive(site)
    if not site.fleet.hosts["beta"].alive:
        site.fleet.boot_host("beta")
    recovered(site)
    whole(site, uuid, moved=site.fleet.running_on(uuid) == ("beta",))


@pytest.mark.parametrize("name", ["check_can_live_migrate_destination", "pre_live_migration", "live_migration"])
def test_each_step_with_disks_runs_twice_as_it_runs_once(site, uuid, name):
    assert drive(site, steps=site.altered(name, twice=True)).status is MigrationStatus.COMPLETED
    whole(site, uuid, moved=True)


def intended(site, uuid):
    """A controller that died with images intended and not yet made."""

    def dies(migration, _job):
        if "disk_copies" in dict(migration.source_memo):
            raise Crash

    with pytest.raises(Crash):
        drive(site, on_progress=dies)
    assert not any(copy.made for copy in noted(Move.load(site.engine()._tools, 1)))


def test_an_image_that_was_intended_and_is_not_known_to_be_made_is_removed_only_while_empty(site, uuid):
    intended(site, uuid)
    site.fleet.add_image("beta", VDA, size_mib=64, content="somebody's")
    made = site.fleet.add_image("beta", VDB, size_mib=64, content="")
    made.allocation_bytes = 0
    recovered(site)
    site.settled(uuid, moved=False)
    assert files(site, "beta") == {VDA: "somebody's"}
    [told] = [one for one in site.sentences() if f"{VDA} on beta did not work" in one]
    assert "it may be somebody's" in told


def test_a_second_undo_does_not_remove_what_somebody_has_put_there_since(site, uuid):
    site.fleet.inject_named("aborted")
    with pytest.raises(NumaferryError):
        drive(site)
    assert noted(Move.load(site.engine()._tools, 1)) == ()


def test_images_are_not_removed_under_a_job_that_has_begun_while_the_move_was_being_undone(site, uuid):
    """A guest that arrives on a file that was removed loses its disk at its next stop."""
    site.fleet.inject("perform", "client-dies", after_bytes=1)
    with pytest.raises(ClientDied):
        drive(site)
    site.taken_over(1, "another")
    move = Move.load(site.engine(controller="another")._tools, 1)
    assert site.hypervisor("alpha").job(uuid) is not None
    images.remove(move)
    assert set(files(site, "beta")) == {VDA, VDB}
    assert len(noted(move)) == 2, "and a later undo still knows them"
    move.close()
    recovered(site)
    whole(site, uuid, moved=True)


def test_a_roll_back_after_a_post_copy_that_broke_deleted_the_newest_data_of_all(site):
    """The guest ran on the destination and is nowhere now: those images may be the only ones that are up to date."""
    for host in ("alpha", "beta"):
        site.fleet.add_pool(host, "default", IMAGES)
    for path in (VDA, VDB):
        site.fleet.add_image("alpha", path, content="old")
    uuid = site.guest(extra=DISKS)
    site.fleet.inject("confirm", "client-dies")
    with pytest.raises(ClientDied):
        drive(site)
    site.fleet.hosts["beta"].domains.pop(uuid, None)
    alpha = site.fleet.hosts["alpha"].domains.get(uuid)
    if alpha is not None and alpha.state.active:
        site.fleet.end_guest("alpha", uuid, "destroyed")
    site.taken_over(1, "another")
    move = Move.load(site.engine(controller="another")._tools, 1)
    images.remove(move)
    assert set(files(site, "beta")) == {VDA, VDB}
    assert any("the guest is not seen on alpha" in one for one in site.sentences())
    move.close()


def test_nothing_is_removed_while_the_source_is_silent(site, uuid):
    """It may run a job that writes to these images."""
    site.fleet.inject("perform", "client-dies", after_bytes=1)
    with pytest.raises(ClientDied):
        drive(site)
    site.taken_over(1, "another")
    move = Move.load(site.engine(controller="another")._tools, 1)
    site.fleet.cut("alpha", "controller")
    images.remove(move)
    assert set(files(site, "beta")) == {VDA, VDB}
    move.close()


def test_a_disk_plugged_into_a_guest_without_local_disks_was_not_noticed(site):
    """All was on the network, or there was nothing, so that nobody had written down what was judged."""
    uuid = site.guest()

    def plugged(migration, job):
        domain = site.fleet.hosts["alpha"].domains[uuid]
        if job is None and migration.step == "live_migration" and "vda" not in domain.live:
            domain.live = domain.live.replace("</devices>", f"{DISKS.partition('</disk>')[0]}</disk></devices>")

    with pytest.raises(CheckFailed, match="disks of db1 have changed"):
        drive(site, MigrationPolicy(), on_progress=plugged)
    site.settled(uuid, moved=False)


def test_the_answer_that_the_guest_is_gone_keeps_the_copies_since_it_may_have_run_there(site):
    """The destination's images may be the only ones that are up to date."""
    for host in ("alpha", "beta"):
        site.fleet.add_pool(host, "default", IMAGES)
    for path in (VDA, VDB):
        site.fleet.add_image("alpha", path, content="old")
    uuid = site.guest(extra=DISKS, persistent=False)
    site.fleet.inject("confirm", "client-dies")
    with pytest.raises(ClientDied):
        drive(site)
    site.fleet.advance(5)
    site.fleet.end_guest("beta", uuid)
    with contextlib.suppress(NumaferryError):
        site.recover(1)
    site.answer(1, Answer.GUEST_IS_GONE)
    assert set(files(site, "beta")) == {VDA, VDB}
    assert any(one.startswith("the disk images on beta stay") for one in site.sentences())


def test_a_disk_that_is_not_shared_and_said_to_be_is_what_libvirt_would_show_as_lost(site, uuid):
    """What the word of an operator who is wrong costs: the fleet can tell, so that the tests above mean something."""
    for path in (VDA, VDB):
        site.fleet.add_image("beta", path, content="something else")
    drive(site, SAID)
    assert site.fleet.lives[uuid].lost_disks == [VDA, VDB]


def test_a_job_whose_undo_can_t_remove_an_image_tells_its_path(site, uuid):
    site.fleet.inject("call.delete_volume", "refuse", host="beta", times=4)
    site.fleet.inject_named("aborted")
    with pytest.raises(NumaferryError):
        drive(site)
    site.settled(uuid, moved=False)
    assert f"removing the copy of vda at {VDA} on beta did not work" in "\n".join(site.sentences())
    stays = [one for one in site.sentences() if one.startswith(f"{VDA} stays on beta")]
    assert stays[0].endswith(f"/beta vol-delete {VDA}")


def test_the_fleet_refuses_a_volume_where_a_file_lies_as_libvirt_does(site, uuid):
    site.fleet.add_image("beta", VDA)
    copy = site.hypervisor("alpha").storage((VDA,)).volumes[VDA]
    with pytest.raises(HypervisorError, match="already exists"):
        site.hypervisor("beta").create_volume(copy)
