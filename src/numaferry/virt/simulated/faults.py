"""Faults by name: where in a migration or call they strike (a point), and what happens there (an action).

Points of a job, in order: ``begin``, ``prepare`` (before the destination is asked to start the guest), ``perform``
(each tick of memory transfer), ``finish`` (memory is over, the guest paused on the source and not yet running on the
destination), ``confirm`` (it runs on the destination, the source still has its paused copy). Points of the port:
``call.METHOD`` before and ``return.METHOD`` after the work of a method.

What libvirt does in each case: docs/migration.rst, src/qemu/qemu_migration.c and the recovery of jobs after a daemon's
restart in src/qemu/qemu_process.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from numaferry.errors import HypervisorError, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numaferry.virt.simulated.fleet import Fleet
    from numaferry.virt.simulated.job import MigrationJob

#: Name of the machine that numaferry runs on, for network cuts.
CONTROLLER = "controller"

JOB_POINTS = ("begin", "prepare", "perform", "finish", "confirm")
CALLS = (
    *("facts", "free_pages", "domains", "domain", "domain_xml", "set_ownership", "thread_masks", "check_vifs"),
    "guest_support",
    *("plug_vifs", "unplug_vifs", "live_migration", "job", "completed_job", "abort_job", "resume", "set_pins"),
    *("set_max_downtime", "start_postcopy", "suspend", "storage", "disk_sizes", "create_volume", "delete_volume"),
)
POINTS = (*JOB_POINTS, *(f"{edge}.{method}" for method in CALLS for edge in ("call", "return")))


class ClientDied(BaseException):
    """The controller's process ends here, as by ``kill -9``: not an Exception, so that no handler of ours runs on."""


@attrs.frozen(slots=True)
class Fault:
    """An action at a point; `uuid` and `host` narrow it, `after_bytes` waits for so much memory to have gone over."""

    point: str
    action: str
    uuid: str = ""
    host: str = ""
    after_bytes: int = 0
    #: How often it strikes.
    times: int = 1


@attrs.define(slots=True)
class Event:
    """A point that is being passed. An action may set `client_died`, or raise."""

    point: str
    host: str
    uuid: str = ""
    job: MigrationJob | None = None
    client_died: bool = False

    def matches(self, fault: Fault) -> bool:
        """Tell whether this fault strikes here and now."""
        processed = 0 if self.job is None else self.job.processed_bytes
        return (
            fault.point == self.point
            and fault.uuid in {"", self.uuid}
            and fault.host in {"", self.host}
            and processed >= fault.after_bytes
        )

    def need_job(self) -> MigrationJob:
        """Return the job; raises InvalidInput where the point has none."""
        if self.job is None:
            raise InvalidInput(f"this fault needs a migration job; {self.point} has none", hint=f"use {JOB_POINTS}")
        return self.job


def _client_dies(_fleet: Fleet, event: Event) -> None:
    event.client_died = True


def _client_dies_with_its_job(_fleet: Fleet, event: Event) -> None:
    event.need_job().orphan()
    event.client_died = True


def _refuse(_fleet: Fleet, event: Event) -> None:
    error = HypervisorError(f"operation failed: refused at {event.point}", hint="a simulated fault")
    if event.job is None:
        raise error
    event.job.fail(error.message)


def _dest_start_fails(_fleet: Fleet, event: Event) -> None:
    event.need_job().fail(
        "internal error: qemu unexpectedly closed the monitor: qemu-system-x86_64: cannot start the guest here"
    )


def _abort(_fleet: Fleet, event: Event) -> None:
    event.need_job().abort_requested = True


def _cut_controller_source(fleet: Fleet, event: Event) -> None:
    fleet.cut(CONTROLLER, event.need_job().source.name)


def _cut_controller_dest(fleet: Fleet, event: Event) -> None:
    fleet.cut(CONTROLLER, event.need_job().dest.name)


def _cut_controller_host(fleet: Fleet, event: Event) -> None:
    fleet.cut(CONTROLLER, event.host)


def _cut_hosts(fleet: Fleet, event: Event) -> None:
    fleet.cut(event.need_job().source.name, event.need_job().dest.name)


def _restart_source(fleet: Fleet, event: Event) -> None:
    fleet.restart_libvirtd(event.need_job().source.name)


def _restart_dest(fleet: Fleet, event: Event) -> None:
    fleet.restart_libvirtd(event.need_job().dest.name)


def _source_dies(fleet: Fleet, event: Event) -> None:
    fleet.kill_host(event.need_job().source.name)


def _dest_dies(fleet: Fleet, event: Event) -> None:
    fleet.kill_host(event.need_job().dest.name)


def _guest_shuts_down(fleet: Fleet, event: Event) -> None:
    fleet.end_guest(event.need_job().source.name, event.uuid, "shutdown")


def _guest_crashes(fleet: Fleet, event: Event) -> None:
    fleet.end_guest(event.need_job().source.name, event.uuid, "crashed")


def _never_converges(_fleet: Fleet, event: Event) -> None:
    job = event.need_job()
    job.dirty_bytes_s = 2 * job.bandwidth_bytes_s


def _pins_ignored(fleet: Fleet, event: Event) -> None:
    host = fleet.hosts[event.host] if event.job is None else event.job.dest
    host.ignores_pins = True
    for domain in [host.domains[event.uuid]] if event.uuid in host.domains else []:
        domain.vcpu_masks = dict.fromkeys(domain.vcpu_masks, host.topology.cpus)


def _split_brain(fleet: Fleet, event: Event) -> None:
    event.need_job().leave_paused_copy()
    fleet.force_running(event.need_job().source.name, event.uuid)


ACTIONS: Mapping[str, Callable[[Fleet, Event], None]] = {
    "client-dies": _client_dies,
    "client-dies-with-its-job": _client_dies_with_its_job,
    "refuse": _refuse,
    "dest-start-fails": _dest_start_fails,
    "abort": _abort,
    "cut-controller-source": _cut_controller_source,
    "cut-controller-dest": _cut_controller_dest,
    "cut-controller-host": _cut_controller_host,
    "cut-hosts": _cut_hosts,
    "restart-source-libvirtd": _restart_source,
    "restart-dest-libvirtd": _restart_dest,
    "source-dies": _source_dies,
    "dest-dies": _dest_dies,
    "guest-shuts-down": _guest_shuts_down,
    "guest-crashes": _guest_crashes,
    "never-converges": _never_converges,
    "pins-ignored": _pins_ignored,
    "split-brain": _split_brain,
}

#: The named faults of a migration: name → (point, action). `split-brain` is the only one that breaks libvirt's rules.
SCENARIOS: Mapping[str, tuple[str, str]] = {
    "client-dies-before-prepare": ("begin", "client-dies"),
    "client-dies-in-perform": ("perform", "client-dies"),
    "client-dies-in-finish": ("finish", "client-dies"),
    "client-dies-in-confirm": ("confirm", "client-dies"),
    "paused-on-source": ("finish", "client-dies-with-its-job"),
    "dest-start-fails": ("prepare", "dest-start-fails"),
    "finish-fails": ("finish", "refuse"),
    "aborted": ("perform", "abort"),
    "controller-loses-source": ("perform", "cut-controller-source"),
    "controller-loses-dest": ("perform", "cut-controller-dest"),
    "controller-loses-dest-in-confirm": ("confirm", "cut-controller-dest"),
    "hosts-lose-each-other": ("perform", "cut-hosts"),
    "hosts-lose-each-other-in-finish": ("finish", "cut-hosts"),
    "source-libvirtd-restarts": ("perform", "restart-source-libvirtd"),
    "source-libvirtd-restarts-in-finish": ("finish", "restart-source-libvirtd"),
    "source-libvirtd-restarts-in-confirm": ("confirm", "restart-source-libvirtd"),
    "dest-libvirtd-restarts": ("perform", "restart-dest-libvirtd"),
    "dest-libvirtd-restarts-in-finish": ("finish", "restart-dest-libvirtd"),
    "source-dies": ("perform", "source-dies"),
    "dest-dies": ("perform", "dest-dies"),
    "dest-dies-in-finish": ("finish", "dest-dies"),
    "guest-shuts-down": ("perform", "guest-shuts-down"),
    "guest-crashes": ("perform", "guest-crashes"),
    "pins-ignored": ("confirm", "pins-ignored"),
    "split-brain": ("confirm", "split-brain"),
}
