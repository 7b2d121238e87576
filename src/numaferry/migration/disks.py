"""Whether a guest's disks can go along: shared only if proven or said, else copied, else refused. Pure.

A disk that is held to be shared and is not comes up empty or with other data on the destination; one that is copied
onto itself is destroyed. So nothing is guessed:

* proven: a network disk, or a volume of a pool that is active on both hosts with one type and one source, of a type
  that is on the network (a directory of the same name on two hosts proves nothing);
* said: `shared_storage` of the policy, the operator's word; one that the destination's own pool contradicts is refused;
* copied: `copy_storage`, only onto a path of a directory pool at which nothing lies yet.

Source of the rules: libvirt's qemuMigrationSrcIsSafe and qemuMigrationAnyCopyDisk (src/qemu/qemu_migration.c, 9.0),
https://libvirt.org/migration.html. libvirt itself takes an image that exists on the destination as the one to copy
onto, which is what must not happen to somebody's file.
"""

from __future__ import annotations

import enum
import posixpath
from typing import TYPE_CHECKING, Final

import attrs

from numaferry.migration.outcome import Check, Outcome
from numaferry.migration.progress import mib
from numaferry.model import CopyStorage, HostStorage, Volume

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numaferry.model import DiskImage, DiskSize, GuestDisk, MigrationPolicy, StoragePool

NAME: Final = "disks"
#: Types of pools whose storage is reached over the network, by names that mean the same on every host.
NETWORK_POOLS: Final = frozenset({"netfs", "gluster", "rbd", "iscsi", "iscsi-direct", "sheepdog"})
#: Names of a server that mean another machine on every host.
OWN_HOST: Final = frozenset({"localhost", "localhost.localdomain", "127.0.0.1", "::1", "[::1]", "0.0.0.0", "::", ""})  # noqa: S104
#: The only type of pool onto which a copy is made: an image in it is a file that belongs to one host.
COPY_POOL: Final = "dir"
COPY_FORMATS: Final = frozenset({"raw", "qcow2"})
#: What is below this is what an image that was made and not yet written to takes (qcow2: header and tables).
EMPTY_BYTES: Final = 1 << 20

SAY: Final = "if both hosts see it, say --shared-storage; to copy it with the guest, --copy-storage=full"


class Verdict(enum.StrEnum):
    """What becomes of a disk."""

    EMPTY = "empty"
    PROVEN = "proven"
    SAID = "said"
    #: Read-only, with an image of the same size on the destination.
    LOOKALIKE = "lookalike"
    COPY = "copy"
    REFUSED = "refused"


@attrs.frozen(slots=True)
class Judgement:
    """One disk, what becomes of it, why, and for a copy the image that has to be made on the destination."""

    target: str
    verdict: Verdict
    reason: str
    hint: str = ""
    volume: Volume | None = None
    #: Where the image that is copied lies on the source.
    origin: str = ""


@attrs.frozen(slots=True)
class DisksView:
    """What was read of a guest's disks, and of both hosts' storage as far as it matters for them."""

    source: str
    dest: str
    disks: tuple[GuestDisk, ...]
    sizes: Mapping[str, DiskSize] = attrs.field(factory=dict)
    source_storage: HostStorage = attrs.field(factory=HostStorage)
    dest_storage: HostStorage = attrs.field(factory=HostStorage)


def check_disks(view: DisksView, policy: MigrationPolicy) -> tuple[Check, ...]:
    """Return one check per disk, and one more for each pool that has too little room for what is copied there."""
    if not view.disks:
        return (Check(NAME, Outcome.OK, "no disks"),)
    judged = judge(view, policy)
    outcomes = {Verdict.REFUSED: Outcome.FAILS, Verdict.LOOKALIKE: Outcome.UNKNOWN}
    checks = [Check(NAME, outcomes.get(one.verdict, Outcome.OK), one.reason, one.hint) for one in judged]
    return (*checks, *_room(view, judged))


def judge(view: DisksView, policy: MigrationPolicy) -> tuple[Judgement, ...]:
    """Return what becomes of each disk under this policy."""
    return tuple(_judge(view, disk, policy) for disk in view.disks)


def unproven(disks: Iterable[GuestDisk]) -> tuple[GuestDisk, ...]:
    """Return the disks of which the guest's XML alone does not say that they are on the network."""
    return tuple(disk for disk in disks if not all(_on_the_network(image) for image in disk.images))


def paths(disks: Iterable[GuestDisk], storage: HostStorage) -> tuple[str, ...]:
    """Return every path at which an image of these disks has, or would have, its place on a host."""
    found = (_path(image, storage) for disk in disks for image in disk.images)
    return tuple(dict.fromkeys(path for path in found if path))


def is_untouched(seen: Volume, made: Volume) -> bool:
    """Tell whether an image is one that was made as `made` and that nobody has written to since."""
    same = (seen.format, seen.capacity_bytes) == (made.format, made.capacity_bytes)
    return same and seen.allocation_bytes <= EMPTY_BYTES


def _judge(view: DisksView, disk: GuestDisk, policy: MigrationPolicy) -> Judgement:
    if not disk.images:
        return Judgement(disk.target, Verdict.EMPTY, f"{disk.target} is an empty drive")
    proofs = [_proof(image, view) for image in disk.images]
    if all(proofs):
        return Judgement(disk.target, Verdict.PROVEN, f"{disk.target} is shared: {proofs[0]}")
    local = [image for image, proof in zip(disk.images, proofs, strict=True) if not proof]
    if not disk.readonly and not proofs[0] and policy.copy_storage is not CopyStorage.NONE:
        return _copy(view, disk, policy)
    if policy.shared_storage:
        return _said(view, disk, local)
    return _read_only(view, disk) if disk.readonly else _refused(view, disk, local[0], shared=bool(proofs[0]))


def _refused(view: DisksView, disk: GuestDisk, local: DiskImage, *, shared: bool) -> Judgement:
    """Refuse a disk of which this image is on the source alone, as far as is known; `shared`: the one above is not."""
    if shared:
        words = f"{disk.target} is shared and what it is based on, {local.where} on {view.source}, is not known to be"
        return Judgement(disk.target, Verdict.REFUSED, words, "if both hosts see that too, say --shared-storage")
    words = f"{disk.target} is on {view.source} at {local.where}: nothing proves that {view.dest} sees the same"
    return Judgement(disk.target, Verdict.REFUSED, words, SAY)


def _said(view: DisksView, disk: GuestDisk, local: list[DiskImage]) -> Judgement:
    """Take the operator's word, unless the destination's pool for that very directory has no such image."""
    for image in local:
        path = _path(image, view.dest_storage)
        pool = _pool_of(path, view.dest_storage)
        if pool is not None and path not in view.dest_storage.volumes:
            return Judgement(
                disk.target,
                Verdict.REFUSED,
                f"{disk.target} is said to be shared, and pool {pool.name} of {view.dest} has no {path}",
                f"mount on {view.dest} what {view.source} has there, or copy it: --copy-storage=full",
            )
    where = ", ".join(image.where for image in local)
    return Judgement(disk.target, Verdict.SAID, f"{disk.target} at {where} is shared by the operator's word")


def _read_only(view: DisksView, disk: GuestDisk) -> Judgement:
    """Let a read-only image go that lies on the destination too and is as big; it can't be damaged there."""
    path = _path(disk.images[0], view.dest_storage)
    there, size = view.dest_storage.volumes.get(path), view.sizes.get(disk.target)
    if there is not None and size is not None and there.capacity_bytes == size.capacity_bytes:
        words = f"{disk.target} is read-only, and {path} on {view.dest} is as big: if it is the same, nobody has proven"
        return Judgement(disk.target, Verdict.LOOKALIKE, words)
    return Judgement(
        disk.target,
        Verdict.REFUSED,
        f"{disk.target} is read-only, and nothing proves that {view.dest} has {disk.images[0].where}",
        "eject it, put the same image there, or say --shared-storage if both hosts see it",
    )


def _copy(view: DisksView, disk: GuestDisk, policy: MigrationPolicy) -> Judgement:
    """Judge a copy: the image that has to be made, or every reason against it."""
    top = disk.images[0]
    path = _path(top, view.dest_storage)
    reasons = list(_against(view, disk, path, policy))
    bases = disk.images[1:] if policy.copy_storage is CopyStorage.INCREMENTAL else ()
    if not reasons:
        reasons = [against for base in bases if (against := _against_base(view, base, policy))]
    if reasons:
        said = "; ".join(words for words, _ in reasons)
        return Judgement(disk.target, Verdict.REFUSED, said, reasons[0][1])
    size = view.sizes[disk.target]
    pool = _pool_of(path, view.dest_storage)
    volume = Volume(
        path=path,
        pool="" if pool is None else pool.name,
        format=top.format,
        capacity_bytes=size.capacity_bytes,
        backing_path=_path(bases[0], view.dest_storage) if bases else "",
        backing_format=(bases[0].format or "raw") if bases else "",
    )
    how = f"above {volume.backing_path}" if bases else "whole"
    words = f"{disk.target} is copied {how} to {path} on {view.dest}, {mib(size.capacity_bytes)} MiB"
    origin = _path(top, view.source_storage) or top.where
    return Judgement(disk.target, Verdict.COPY, words, volume=volume, origin=origin)


def _against(view: DisksView, disk: GuestDisk, path: str, policy: MigrationPolicy) -> Iterator[tuple[str, str]]:
    """Yield (reason, hint) for everything that forbids to copy a disk to this path."""
    name, top, dest = disk.target, disk.images[0], view.dest
    if policy.shared_storage and policy.copy_storage is CopyStorage.FULL:
        yield f"{name} is said to be shared and to be copied, onto itself then", "say one of the two"
    if disk.encrypted:
        yield f"{name} is encrypted: an empty image for it can't be made", SAY
    if disk.shareable:
        yield f"{name} is shareable: a copy would part it from the other guests that write to it", SAY
    if disk.device != "disk" or not path:
        kind = top.kind if disk.device == "disk" else disk.device
        yield f"{name} is a {kind} device, which is not copied", "if both hosts see it, say --shared-storage"
        return
    if top.format not in COPY_FORMATS:
        yield f"{name} has format {top.format or 'unknown'}: raw and qcow2 are copied", "convert its image first"
    if disk.target not in view.sizes:
        yield f"how big {name} is, {view.source} does not say", "look at it: virsh domblkinfo"
    if path in view.dest_storage.volumes:
        yield (
            f"{dest} has an image at {path} already: it may be this very one, or somebody's",
            f"if both hosts see it, say --shared-storage; if nobody needs it: virsh vol-delete {path} on {dest}",
        )
    folder = posixpath.dirname(path)
    pool = _pool_of(path, view.dest_storage)
    if pool is None:
        # a file there could be neither seen nor made
        yield (
            f"{dest} has no active storage pool for {folder}, in which {name} would be made",
            f"make one: virsh pool-create-as NAME dir --target {folder} on {dest}",
        )
    elif pool.type != COPY_POOL:
        yield f"pool {pool.name} of {dest} is of type {pool.type}: {path} in it may be shared", SAY


def _against_base(view: DisksView, base: DiskImage, policy: MigrationPolicy) -> tuple[str, str] | None:
    """Return why a copy can't be made above this image; None where it can."""
    path = _path(base, view.dest_storage)
    if not (policy.shared_storage or _proof(base, view)):
        words = f"nothing proves that {base.where}, on which it is based, is the same on {view.dest}"
        return words, "if it is, say --shared-storage too; else --copy-storage=full"
    if base.kind == "network" or path in view.dest_storage.volumes:
        return None
    return f"no pool of {view.dest} has {path}, on which it is based", "put it there, or --copy-storage=full"


def _proof(image: DiskImage, view: DisksView) -> str:
    """Return what proves that both hosts see this image, "" where nothing does."""
    if _on_the_network(image):
        return "it is on the network"
    for here in view.source_storage.pools:
        if not _holds(here, image):
            continue
        for there in view.dest_storage.pools:
            if _holds(there, image) and same_storage(here, there):
                return f"pool {there.name} of {view.dest} has the same {here.type} source as {view.source}"
    return ""


def same_storage(here: StoragePool, there: StoragePool) -> bool:
    """Tell whether two active pools on two hosts are one storage: a network type, and the same source and target."""
    servers = [value.rpartition(":")[0] for what, value in here.source if what == "host"]
    known = bool(servers) and OWN_HOST.isdisjoint(servers)
    same = (here.type, here.source, here.target) == (there.type, there.source, there.target)
    return known and same and here.type in NETWORK_POOLS


def _on_the_network(image: DiskImage) -> bool:
    """Tell whether an image is reached over the network under a name that means the same everywhere."""
    return image.kind == "network" and not any(host in OWN_HOST or host.startswith("/") for host in image.hosts)


def _holds(pool: StoragePool, image: DiskImage) -> bool:
    """Tell whether an image lies in this pool, by the pool's name or its directory."""
    if image.pool:
        return pool.name == image.pool
    # further down another file system may be mounted, on each host its own
    return bool(pool.target and image.path) and posixpath.dirname(image.path) == pool.target.rstrip("/")


def _path(image: DiskImage, storage: HostStorage) -> str:
    """Return the path of an image on a host; a volume's is in the host's pool of that name. "" where it has none."""
    if not image.pool:
        return image.path if image.kind == "file" else ""
    targets = [pool.target for pool in storage.pools if pool.name == image.pool and pool.target]
    return posixpath.join(targets[0], image.volume) if targets else ""


def _pool_of(path: str, storage: HostStorage) -> StoragePool | None:
    """Return the pool whose directory is the one of this path, or a network pool that has it further down."""
    folder = posixpath.dirname(path)
    for pool in storage.pools:
        if pool.target and pool.target.rstrip("/") == folder:
            return pool
    below = [
        one for one in storage.pools if one.type in NETWORK_POOLS and one.target and path.startswith(f"{one.target}/")
    ]
    return below[0] if below else None


def _room(view: DisksView, judged: tuple[Judgement, ...]) -> Iterator[Check]:
    """Yield a check for each pool in which what is copied has too little room, or may have.

    At least what the images take on the source is written. It may be as much as the guest sees: holes of a raw image
    are not always kept, and an image that is copied whole takes what it is based on as well.
    """
    for pool in view.dest_storage.pools:
        sizes = [view.sizes[one.target] for one in judged if one.volume is not None and one.volume.pool == pool.name]
        least, most = sum(one.allocation_bytes for one in sizes), sum(one.capacity_bytes for one in sizes)
        room = f"pool {pool.name} of {view.dest} has room for {mib(pool.available_bytes)} MiB"
        if least > pool.available_bytes:
            words = f"{room}, what is copied takes {mib(least)} MiB on {view.source}"
            yield Check("disk-space", Outcome.FAILS, words)
        elif most > pool.available_bytes:
            words = f"{room}, what is copied may take {mib(most)} MiB there, and other moves may take room too"
            yield Check("disk-space", Outcome.UNKNOWN, words)
