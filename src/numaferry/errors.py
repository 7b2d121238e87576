"""The tree of errors: whose fault it is, a stable code, what to do about it, and whether trying again may help.

::

    NumaferryError
    ├── InputError                what was asked makes no sense or names nothing   (exit 2)
    │   ├── InvalidInput            a value that can't be read
    │   ├── NotFound                no such host, instance, migration
    │   ├── Ambiguous               a name that two things bear
    │   └── InvalidRequest          extra specs that contradict themselves; code = nova's exception name
    ├── RefusedError              understood, and not done, by rule                (exit 3)
    │   ├── Conflict                exists already, belongs to another ledger, has claims
    │   │   ├── TakenOver             another controller drives this migration now
    │   │   └── LeaseHeld             another controller may still be driving it; retryable
    │   ├── NotConfirmed            the host's dedicated set was never confirmed
    │   ├── NotManaged              the guest is off, not adopted, or another manager's
    │   └── TooOld                  libvirt, QEMU or the ledger's schema
    ├── NoFit                     the resources are not there; carries the misfit  (exit 4)
    ├── CheckFailed               a read-only check said no before anything moved  (exit 5)
    ├── MigrationFailed           started and rolled back: the guest runs on the source (exit 6)
    ├── NeedsPerson               the evidence allows no safe automatic answer     (exit 7)
    ├── HostError                 a host can't be reached or libvirt refuses       (exit 8)
    │   ├── HostUnreachable
    │   └── HypervisorError
    ├── LedgerError               the database is locked, foreign, newer, or broken (exit 9)
    │   ├── Overcommitted           the schema refused what the solver allowed: a bug, told loudly
    │   ├── LeaseLapsed             the lease could not be renewed in time, so no host is touched any more; retryable
    │   └── LedgerUnusable
    └── EnvironmentLacking        root, memory, disk, KVM, a package: this machine can't (exit 69)

A message carries the numbers (what, where, how many); `hint` says what to do next. The code strings never change.
"""

from __future__ import annotations


class NumaferryError(Exception):
    """Base of every error of this project.

    `code` is stable and for machines; `hint` is one sentence for the person; `retryable` says whether the same call
    may succeed later without anybody changing anything; `exit_code` is what a command ends with.
    """

    code = "error"
    exit_code = 1
    retryable = False

    def __init__(self, message: str, *, hint: str = "", code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code is not None:
            self.code = code

    def to_dict(self) -> dict[str, object]:
        """Return the error as JSON-ready values: code, message, hint, retryable."""
        return {"code": self.code, "message": self.message, "hint": self.hint, "retryable": self.retryable}


class InputError(NumaferryError):
    """What was asked makes no sense or names nothing."""

    code = "input"
    exit_code = 2


class InvalidInput(InputError):
    """A value that can't be read: a CPU list, a URI, a TOML file."""

    code = "invalid-input"


class NotFound(InputError):
    """No host, instance or migration of that name."""

    code = "not-found"


class Ambiguous(InputError):
    """The name fits more than one thing."""

    code = "ambiguous"


class InvalidRequest(InputError):
    """Extra specs that contradict themselves; `code` is the name of nova's exception for it."""

    code = "InvalidRequest"


class RefusedError(NumaferryError):
    """Understood, and by rule not done."""

    code = "refused"
    exit_code = 3


class Conflict(RefusedError):
    """It exists already, belongs to another ledger, or still holds claims."""

    code = "conflict"


class TakenOver(Conflict):
    """Another controller drives this migration now: this one must not touch anything more."""

    code = "taken-over"


class LeaseHeld(Conflict):
    """Another controller may still be driving this migration: its lease, or its longest call, is not over."""

    code = "lease-held"
    retryable = True


class NotConfirmed(RefusedError):
    """Nothing is claimable on a host before an operator confirmed its CPU sets."""

    code = "not-confirmed"


class NotManaged(RefusedError):
    """The guest is off, was not adopted, or another manager owns it."""

    code = "not-managed"


class TooOld(RefusedError):
    """A libvirt, QEMU or ledger version outside what is supported."""

    code = "version"


class NoFit(NumaferryError):
    """The exact resources are not there; `misfit` says constraint by constraint what is missing."""

    code = "no-fit"
    exit_code = 4

    def __init__(self, message: str, *, hint: str = "", misfits: object = None) -> None:
        super().__init__(message, hint=hint)
        self.misfits = misfits


class CheckFailed(NumaferryError):
    """A read-only check said no before anything was touched."""

    code = "check-failed"
    exit_code = 5


class MigrationFailed(NumaferryError):
    """The move was started and rolled back; the guest runs on the source."""

    code = "migration-failed"
    exit_code = 6


class NeedsPerson(NumaferryError):
    """The evidence from both hosts allows no safe automatic answer."""

    code = "needs-person"
    exit_code = 7


class HostError(NumaferryError):
    """A host or its libvirt daemon."""

    code = "host"
    exit_code = 8


class HostUnreachable(HostError):
    """No connection to the host's libvirtd, or no answer in time."""

    code = "host-unreachable"
    retryable = True


class HypervisorError(HostError):
    """libvirt answered with an error; the message quotes it."""

    code = "hypervisor"


class LedgerError(NumaferryError):
    """The ledger's database."""

    code = "ledger"
    exit_code = 9


class Overcommitted(LedgerError):
    """The schema refused rows that the solver allowed: a fault of ours, and nothing was promised."""

    code = "overcommitted"


class LeaseLapsed(LedgerError):
    """The lease on a migration could not be renewed in time: no host is touched any more until it is."""

    code = "lease-lapsed"
    retryable = True


class LedgerUnusable(LedgerError):
    """Locked, read-only, of a newer schema, or of another fleet."""

    code = "ledger-unusable"


class EnvironmentLacking(NumaferryError):
    """This machine lacks what the command needs: root, memory, disk, KVM or TCG, a package."""

    code = "environment"
    exit_code = 69
