"""How a migration is driven: what may be used to make it converge, and what is done if it does not.

The words are those of nova.conf ``[libvirt] live_migration_*`` and of libvirt's typed parameters (VIR_MIGRATE_PARAM_*).
A policy is complete; a *wish* is what one layer says of it, and layers are laid over each other: built-in defaults,
configuration, host, instance, command.
"""

from __future__ import annotations

import enum
from typing import Any

import attrs


class PostCopy(enum.StrEnum):
    """Whether a migration may switch to post-copy, in which the guest depends on both hosts until it has ended."""

    NEVER = "never"
    #: Only when a person asks for it (`migration force-complete`), or at the timeout if `on_timeout` says so.
    ON_DEMAND = "on-demand"
    #: By itself, after `post_copy_after_iterations` passes over the memory.
    AUTOMATIC = "automatic"


class OnTimeout(enum.StrEnum):
    """What is done with a migration that has not ended in time (nova: live_migration_timeout_action)."""

    ABORT = "abort"
    POST_COPY = "post-copy"
    #: Pause the guest, so that nothing is dirtied any more; it runs again on the destination.
    PAUSE = "pause"


class OnNoConvergence(enum.StrEnum):
    """What is done, before the start, with a migration that is not expected to end by itself."""

    #: Nothing: it is not estimated.
    IGNORE = "ignore"
    WARN = "warn"
    REFUSE = "refuse"


class CopyStorage(enum.StrEnum):
    """Whether disks that lie on the source alone are copied with the guest (VIR_MIGRATE_NON_SHARED_DISK, _INC)."""

    NONE = "none"
    #: Whole, whatever their images are based on.
    FULL = "full"
    #: Only what lies above images that both hosts share (nova and libvirt: incremental).
    INCREMENTAL = "incremental"


@attrs.frozen(slots=True)
class MigrationPolicy:
    """One migration's policy; 0 means "no limit" or "not used" everywhere."""

    bandwidth_mib_s: int = 0
    bandwidth_postcopy_mib_s: int = 0
    #: The longest pause at the switch that is accepted in the end (nova: live_migration_downtime).
    downtime_ms: int = 500
    #: The limit is raised in so many equal steps, one for each pass over the memory.
    downtime_steps: int = 10
    auto_converge: bool = False
    #: Percent of the guest's CPU time taken at first, and more at each step; 0 leaves QEMU's own (20 and 10).
    auto_converge_initial: int = 0
    auto_converge_increment: int = 0
    post_copy: PostCopy = PostCopy.NEVER
    post_copy_after_iterations: int = 3
    #: Connections over which memory is sent at the same time (multifd).
    parallel_connections: int = 0
    #: "" or libvirt's word: xbzrle, mt; with parallel connections zlib, zstd.
    compression: str = ""
    #: Encrypt the data connection with the certificates that both QEMUs are configured with.
    tls: bool = False
    completion_timeout_s: int = 0
    #: Added for each GiB of the guest's memory (nova: live_migration_completion_timeout).
    completion_timeout_s_per_gib: int = 0
    on_timeout: OnTimeout = OnTimeout.ABORT
    #: A job that moves no byte for so long is given up, whatever its iteration.
    stall_timeout_s: int = 60
    #: Whether the guest's writing is measured before the start, which takes some seconds, and what follows from it.
    on_no_convergence: OnNoConvergence = OnNoConvergence.IGNORE
    #: The operator's word that disks which nothing proves to be shared are on storage that both hosts see.
    shared_storage: bool = False
    copy_storage: CopyStorage = CopyStorage.NONE

    def timeout_s(self, memory_kib: int) -> int:
        """Return how long a migration of a guest of this size may take, in seconds; 0: for ever."""
        return self.completion_timeout_s + self.completion_timeout_s_per_gib * -(-memory_kib // (1 << 20))


@attrs.frozen(slots=True)
class PolicyWish:
    """What one layer says: the fields of `MigrationPolicy` that it sets."""

    said: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, **said: Any) -> PolicyWish:
        """Return a wish; fields that are None are not said. Raises TypeError for a field that there is not."""
        known = set(attrs.fields_dict(MigrationPolicy))
        if unknown := sorted(set(said) - known):
            raise TypeError(f"a migration policy has no field {unknown[0]!r}")
        return cls(tuple(sorted((name, value) for name, value in said.items() if value is not None)))


def policy_of(*wishes: PolicyWish) -> MigrationPolicy:
    """Return the policy that layers of wishes make; a later one wins, field by field."""
    said: dict[str, Any] = {}
    for wish in wishes:
        said |= dict(wish.said)
    words = {
        "post_copy": PostCopy,
        "on_timeout": OnTimeout,
        "on_no_convergence": OnNoConvergence,
        "copy_storage": CopyStorage,
    }
    return MigrationPolicy(**said | {name: kind(said[name]) for name, kind in words.items() if name in said})
