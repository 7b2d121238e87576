"""Migration jobs: the call, its progress, its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numaferry.errors import HypervisorError
from numaferry.model import CopyStorage, JobInfo, PostCopy
from numaferry.request.xml import parse_xml
from numaferry.virt.libvirt.connection import libvirt

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numaferry.model import MigrateCall, MigrationPolicy

#: JobInfo field → key of virDomainGetJobStats.
_FIELDS: Mapping[str, str] = {
    "time_elapsed_ms": "time_elapsed",
    "memory_total_bytes": "memory_total",
    "memory_processed_bytes": "memory_processed",
    "memory_remaining_bytes": "memory_remaining",
    "memory_bps": "memory_bps",
    "memory_dirty_rate": "memory_dirty_rate",
    "memory_page_size_bytes": "memory_page_size",
    "memory_iteration": "memory_iteration",
    "downtime_ms": "downtime",
    "setup_ms": "setup_time",
    "disk_total_bytes": "disk_total",
    "disk_processed_bytes": "disk_processed",
    "disk_remaining_bytes": "disk_remaining",
    "disk_bps": "disk_bps",
    "auto_converge_throttle": "auto_converge_throttle",
    "postcopy_requests": "memory_postcopy_requests",
}

#: VIR_MIGRATE_CHANGE_PROTECTION is not asked for: libvirt uses it by itself wherever both sides know it.
_FLAGS = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER | libvirt.VIR_MIGRATE_ABORT_ON_ERROR
_FLAGS_PERSISTENT = libvirt.VIR_MIGRATE_PERSIST_DEST | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE

_COMPLETED = libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED | libvirt.VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED
_MIGRATIONS = {libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN, libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT}

#: The destination of a running job has no figures: "migration statistics are available only on the source host".
_ONLY_ON_SOURCE = libvirt.VIR_ERR_OPERATION_UNSUPPORTED
#: libvirt raises this while QEMU has begun and has no figures yet; the job runs (nova met it as LP 1982284).
_NO_FIGURES_YET = "migration was active, but no RAM info was set"


def migrate_arguments(call: MigrateCall) -> tuple[dict[str, Any], int]:
    """Return typed parameters and flags of virDomainMigrateToURI3 for a call.

    PERSIST_DEST together with a destination XML needs the persistent XML too, or the destination keeps the source's
    pins for the next start (nova LP 1890501); a transient domain stays transient and undefined nowhere.
    """
    parameters: dict[str, Any] = {libvirt.VIR_MIGRATE_PARAM_DEST_XML: call.dest_xml}
    flags = _FLAGS
    if call.persistent_xml is not None:
        parameters[libvirt.VIR_MIGRATE_PARAM_PERSIST_XML] = call.persistent_xml
        flags |= _FLAGS_PERSISTENT
    if call.migrate_uri:
        parameters[libvirt.VIR_MIGRATE_PARAM_URI] = call.migrate_uri
    if call.listen_address:
        parameters[libvirt.VIR_MIGRATE_PARAM_LISTEN_ADDRESS] = call.listen_address
    if call.migrate_disks:
        parameters[libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS] = list(call.migrate_disks)
        incremental = call.policy.copy_storage is CopyStorage.INCREMENTAL
        flags |= libvirt.VIR_MIGRATE_NON_SHARED_INC if incremental else libvirt.VIR_MIGRATE_NON_SHARED_DISK
    if call.disks_said_shared:
        # libvirt knows the shared file systems of its own list, and refuses the others without this flag
        flags |= libvirt.VIR_MIGRATE_UNSAFE
    chosen, more = policy_arguments(call.policy)
    return parameters | chosen, flags | more


def policy_arguments(policy: MigrationPolicy) -> tuple[dict[str, Any], int]:
    """Return the typed parameters and flags that a policy asks for; what it leaves open is libvirt's or QEMU's own."""
    wanted = {
        libvirt.VIR_MIGRATE_PARAM_BANDWIDTH: policy.bandwidth_mib_s,
        libvirt.VIR_MIGRATE_PARAM_BANDWIDTH_POSTCOPY: policy.bandwidth_postcopy_mib_s,
        libvirt.VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS: policy.parallel_connections,
        libvirt.VIR_MIGRATE_PARAM_COMPRESSION: policy.compression,
        libvirt.VIR_MIGRATE_PARAM_AUTO_CONVERGE_INITIAL: policy.auto_converge and policy.auto_converge_initial,
        libvirt.VIR_MIGRATE_PARAM_AUTO_CONVERGE_INCREMENT: policy.auto_converge and policy.auto_converge_increment,
    }
    flags = {
        libvirt.VIR_MIGRATE_AUTO_CONVERGE: policy.auto_converge,
        libvirt.VIR_MIGRATE_POSTCOPY: policy.post_copy is not PostCopy.NEVER,
        libvirt.VIR_MIGRATE_PARALLEL: policy.parallel_connections > 0,
        libvirt.VIR_MIGRATE_COMPRESSED: bool(policy.compression),
        libvirt.VIR_MIGRATE_TLS: policy.tls,
    }
    return {name: value for name, value in wanted.items() if value}, sum(flag for flag, on in flags.items() if on)


def while_running(domain: libvirt.virDomain, work: Callable[[], object]) -> None:
    """Do something to a running job; where it has just ended nothing happens."""
    try:
        work()
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID or read_job(domain) is not None:
            raise


def secrets_in(*xmls: str | None) -> tuple[str, ...]:
    """Return the secret values of domain XMLs, so that error messages can be cleared of them."""
    elements = (element for xml in xmls if xml for element in parse_xml(xml).iter())
    values = (element.get(name) for element in elements for name in ("passwd", "password"))
    return tuple({value for value in values if value})


def job_info(stats: Mapping[str, Any], *, completed: bool = False) -> JobInfo | None:
    """Return job statistics as a JobInfo; None where they are of no job, or of one that is no migration."""
    if not stats or stats.get("type", libvirt.VIR_DOMAIN_JOB_NONE) == libvirt.VIR_DOMAIN_JOB_NONE:
        return None
    if stats.get("operation", libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT) not in _MIGRATIONS:
        return None
    return JobInfo(**{field: int(stats.get(key, 0)) for field, key in _FIELDS.items()}, completed=completed)


def read_job(domain: libvirt.virDomain) -> JobInfo | None:
    """Return the running migration job, None without one; a job without figures (yet, or here) is an empty JobInfo."""
    try:
        return job_info(domain.jobStats())
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID:  # the domain is off
            return None
        if error.get_error_code() == _ONLY_ON_SOURCE or _NO_FIGURES_YET in str(error):
            return JobInfo()
        raise


def read_completed_job(domain: libvirt.virDomain) -> JobInfo | None:
    """Return the last finished job's figures; libvirt forgets them when its daemon restarts."""
    return job_info(domain.jobStats(_COMPLETED), completed=True)


def abort(domain: libvirt.virDomain) -> None:
    """Abort the job; where there is none (any more) nothing happens."""
    while_running(domain, domain.abortJob)


def suspend(domain: libvirt.virDomain) -> None:
    """Pause the guest of a running migration; one that is paused already is left alone. Raises where no job runs."""
    if read_job(domain) is None:
        raise HypervisorError(
            f"domain {domain.name()} is under no migration job, so it is not paused",
            hint="the job has just ended: look again",
        )
    if domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING:
        domain.suspend()
