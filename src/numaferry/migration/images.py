"""Images on the destination for the disks that are copied: looked at, noted, made before the job, removed on rollback.

What is going to be made is committed in the migration's memo first, and each image that was made is committed as made.
Rollback and a controller that takes over read that memo, and remove what it names and nothing else. Between the two
commits a controller may have died: an image found then is removed only if it is as it would have been made, and empty,
since the job can't have begun before the second commit.

The images on the source are never touched: a guest's data is not deleted by whom it was not asked to be.
"""

from __future__ import annotations

import json
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import attrs

from numaferry.errors import CheckFailed, HypervisorError, NotFound
from numaferry.migration.checks import refuse
from numaferry.migration.disks import DisksView, Verdict, check_disks, is_untouched, judge, paths, unproven
from numaferry.migration.evidence import DestWord, Phase, SourceWord, dest_word, phase_of, source_word
from numaferry.model import Volume
from numaferry.request import guest_disks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numaferry.migration.move import Move
    from numaferry.model import GuestDisk
    from numaferry.virt.port import Hypervisor

#: Keys of a migration's memo; the last one is what the guest's disks were when they were judged.
COPIES, SAID, JUDGED = "disk_copies", "disks_said_shared", "disks_judged"
#: What the source says where the guest is there, so that nothing on the destination is newer.
_ON_THE_SOURCE = frozenset({SourceWord.RUNNING, SourceWord.PAUSED, SourceWord.HELD})


@attrs.frozen(slots=True)
class Copy:
    """A disk that is copied from `origin`, its image on the destination, and whether that is known to be ours."""

    target: str
    volume: Volume
    origin: str
    made: bool = False


def look_at_disks(source: str, hypervisor: Hypervisor, uuid: str, xml: str) -> DisksView:
    """Read what the source says of a guest's disks; nothing is asked where all are on the network. `xml` is live."""
    disks = guest_disks(xml)
    asked = unproven(disks)
    if not asked:
        return DisksView(source, "", disks)
    storage = hypervisor.storage(())
    sizes = hypervisor.disk_sizes(uuid, tuple(disk.target for disk in asked))
    return DisksView(source, "", disks, sizes, storage)


def look_there(view: DisksView, dest: str, hypervisor: Hypervisor) -> DisksView:
    """Return the view with what the destination's pools have at the paths of these disks."""
    asked = unproven(view.disks)
    if not asked:
        return attrs.evolve(view, dest=dest)
    # a volume's path is known only once the pools are
    storage = hypervisor.storage(paths(asked, view.source_storage))
    more = [path for path in paths(asked, storage) if path not in storage.volumes]
    if more:
        storage = hypervisor.storage((*storage.volumes, *more))
    return attrs.evolve(view, dest=dest, dest_storage=storage)


def view_of(move: Move, xml: str) -> DisksView:
    """Return what both hosts of a migration say of its guest's disks."""
    view = look_at_disks(move.source.name, move.source_host, move.uuid, xml)
    return look_there(view, move.dest.name, move.dest_host)


def prepare(move: Move, xml: str) -> None:
    """Note what is copied and what is shared by the operator's word, then make the images; safe to repeat.

    Judged here once more, right before anything is made. Raises CheckFailed, and HypervisorError where libvirt can't
    make an image.
    """
    if move.memo(COPIES) is None:
        _note(move, view_of(move, xml))
    for copy in noted(move):
        if not copy.made:
            _make(move, copy)


def refuse_changed(move: Move, xml: str) -> None:
    """Raise CheckFailed where the guest's disks are not those that were judged: a new one would go unseen."""
    before = move.memo(JUDGED)
    if before is not None and before != judged(xml):
        raise CheckFailed(
            f"the disks of {move.instance.name} have changed since they were checked",
            hint="move it again: they are judged anew",
        )


def migrate_disks(move: Move) -> tuple[str, ...]:
    """Return the targets of the disks that the job copies."""
    return tuple(copy.target for copy in noted(move))


def noted(move: Move) -> tuple[Copy, ...]:
    """Return the copies that the memo names."""
    text = move.memo(COPIES)
    rows = json.loads(text) if text else []
    return tuple(Copy(row["target"], Volume(**row["volume"]), row["origin"], row["made"]) for row in rows)


def remove(move: Move) -> None:
    """Remove from the destination what this migration made there; safe to repeat, and for nothing.

    A job that has begun meanwhile (a dead controller's call that waited for the domain's lock) writes to these images,
    and its guest will live on them: they stay then, and so does the migration, which is decided anew.
    """
    copies = noted(move)
    if copies and (words := _in_use(move)):
        leave(move, words)
        return
    for copy in copies:
        path = copy.volume.path
        what = f"removing the copy of {copy.target} at {path} on {move.dest.name}"
        if move.tidy(what, partial(_remove, move, copy), reach=False):
            _commit(move, f"{what}: done", (one for one in noted(move) if one.target != copy.target))
        else:
            remedy = f"virsh -c {move.dest.uri} vol-delete {path}"
            move.commit(f"{path} stays on {move.dest.name}; if nobody needs it, remove it with: {remedy}")


def _in_use(move: Move) -> str:
    """Return why the images on the destination may be in use, or hold what is nowhere else; "" where neither is so.

    Once a job was asked for, only a guest that is seen on the source proves it: after a switch by post-copy the newest
    data are on the destination, whatever became of the guest since. Nothing is concluded from silence.
    """
    source, job, dest = move.look()
    if job is not None and not job.completed:
        return "since a job runs"
    if dest_word(dest) in {DestWord.ACTIVE, DestWord.INCOMING}:
        return f"since {move.dest.name} has the guest"
    if phase_of(move.migration) is Phase.BEFORE or source_word(source, job, move.migration) in _ON_THE_SOURCE:
        return ""
    return f"since the guest is not seen on {move.source.name}"


def leave(move: Move, why: str) -> None:
    """Tell of the images on the destination that stay, since nobody knows what they are worth."""
    if named := ", ".join(copy.volume.path for copy in noted(move)):
        move.commit(f"the disk images on {move.dest.name} stay, {why}: {named}")


def tell_kept(move: Move) -> None:
    """Tell of the images on the source, which stay as they were at the switch."""
    if copies := noted(move):
        named = ", ".join(f"{copy.origin} ({copy.target})" for copy in copies)
        remedy = f"virsh -c {move.source.uri} vol-delete PATH"
        move.commit(
            f"the disk images on {move.source.name} stay as they were at the switch: {named}; when "
            f"{move.instance.name} is well on {move.dest.name}, remove them with: {remedy}"
        )


def _note(move: Move, view: DisksView) -> None:
    policy = move.migration.policy
    refuse(check_disks(view, policy), f"the disks of {move.instance.name} can't go to {move.dest.name}")
    found = judge(view, policy)
    copies = [Copy(one.target, one.volume, one.origin) for one in found if one.volume is not None]
    said = [one.target for one in found if one.verdict is Verdict.SAID]
    if not copies and not said:
        return
    words = "; ".join(one.reason for one in found if one.verdict in {Verdict.SAID, Verdict.COPY})
    memo = {COPIES: _dump(copies), SAID: ",".join(said), JUDGED: _judged(view.disks)}
    move.commit(words, memo=memo)


def _make(move: Move, copy: Copy) -> None:
    """Make one image and commit that it is ours; what libvirt says it did not make is no longer noted."""
    try:
        move.dest_host.create_volume(copy.volume)
    except HypervisorError as error:
        others = (one for one in noted(move) if one.target != copy.target)
        _commit(move, f"no image for {copy.target} was made: {error.message}", others)
        raise
    rows = [attrs.evolve(one, made=True) if one.target == copy.target else one for one in noted(move)]
    _commit(move, f"made {copy.volume.path} on {move.dest.name} for {copy.target}", rows)


def _remove(move: Move, copy: Copy) -> bool:
    """Remove one image and return True; raises HypervisorError where it is in use, or can't be told from somebody's."""
    seen = move.dest_host.storage((copy.volume.path,)).volumes.get(copy.volume.path)
    if seen is None:
        return True
    if not copy.made and not is_untouched(seen, copy.volume):
        raise HypervisorError(
            f"{copy.volume.path} is not empty, or not as it would have been made: it may be somebody's",
            hint="look at it; nobody's data is removed",
        )
    # what the destination has is read before, so that nothing slow lies between the last look and the removal
    if words := _in_use(move):
        raise HypervisorError(f"{copy.volume.path} is not removed, {words}", hint="what became of the job is seen next")
    # one that has gone meanwhile is gone
    with suppress(NotFound):
        move.dest_host.delete_volume(copy.volume.path)
    return True


def _commit(move: Move, sentence: str, copies: Iterable[Copy]) -> None:
    move.commit(sentence, memo={COPIES: _dump(copies)})


def judged(xml: str) -> str:
    """Return what `refuse_changed` compares, of a live domain XML."""
    return _judged(guest_disks(xml))


def _judged(disks: Iterable[GuestDisk]) -> str:
    """Return which images the disks have, as a text that differs where they do."""
    return json.dumps([[disk.target, *(image.where for image in disk.images)] for disk in disks])


def _dump(copies: Iterable[Copy]) -> str:
    return json.dumps([attrs.asdict(copy) for copy in copies])
