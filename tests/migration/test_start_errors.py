"""Words of libvirt when a job fails to start → the reason code that a check would have given."""

import re

import pytest

from numaferry.errors import HypervisorError, MigrationFailed, NotFound
from numaferry.migration.start_errors import START_ERRORS, start_error, with_code
from numaferry.virt.simulated.job import BUSY

#: One sentence of libvirt or QEMU per reason, as they say it.
SAID = {
    "cpu": "operation failed: guest CPU doesn't match specification: missing features: avx512f",
    "tsc-frequency": "unsupported configuration: Requested TSC frequency 2 Hz is outside tolerance range ([3, 4] Hz)",
    "machine": "invalid argument: the machine 'pc-q35-9.2' is not supported by emulator '/usr/bin/qemu'",
    "emulator": "Cannot check QEMU binary /usr/bin/qemu-kvm: No such file or directory",
    "abi": "unsupported configuration: Target domain machine type pc does not match source q35",
    "seclabel": "unsupported configuration: Unable to find security driver for model apparmor",
    "not-there": "operation failed: domain 'db1' already exists with uuid 1",
    "disk-cache": "Unsafe migration: Migration may lead to data corruption if disks use cache other than none",
    "disks": "Unsafe migration: Migration without shared storage is unsafe",
    "image-lock": 'internal error: qemu: Failed to get "write" lock. Is another process using the image?',
    "volumes": "Storage pool not found: no storage pool with matching name 'fast'",
    "links": "Cannot get interface MTU on 'br0': No such device",
    "mounts": "internal error: hugetlbfs filesystem is not mounted or disabled by administrator config",
    "pages": "qemu-system-x86_64: unable to map backing store for guest RAM: Cannot allocate memory",
    "memlock": "cannot limit locked memory of process 7 to 1: Operation not permitted",
    "topology": "unsupported configuration: NUMA node 5 is unavailable",
    "tpm-backend": "Unable to find 'swtpm_setup' binary in $PATH",
    "firmware": "operation failed: unable to find any master var store for loader: /f/CODE.fd",
    "peer": "operation failed: Failed to connect to remote libvirt URI qemu+tls://b/system: Connection refused",
    "listen": "internal error: QEMU closed the monitor: Failed to bind socket: Cannot assign requested address",
    "snapshots": "Requested operation is not valid: cannot migrate domain with 2 snapshots",
    "block-job": "Requested operation is not valid: domain has active block job",
    "io-error": "Requested operation is not valid: cannot migrate domain with I/O error",
    "auto-destroy": "Requested operation is not valid: domain is marked for auto destroy",
    "slirp": "Requested operation is not valid: a slirp-helper cannot be migrated",
    "job": BUSY,
    "devices": "Requested operation is not valid: cannot migrate domain: 0000:00:05.0/vfio: VFIO migration is off",
}


@pytest.mark.parametrize("row", START_ERRORS, ids=lambda row: row.code)
def test_each_row_knows_its_own_words_and_no_row_before_it_takes_them(row):
    error = HypervisorError(f"qemu+tcp://a/system: {SAID[row.code]}")
    assert start_error(error) == row
    assert with_code(error) == f"{row.code}: qemu+tcp://a/system: {SAID[row.code]}"


@pytest.mark.parametrize(
    "error",
    [
        HypervisorError("operation aborted: job 'migration out' canceled by client"),
        HypervisorError("internal error: client socket is closed"),
        NotFound("no machine type"),
        RuntimeError("no machine type"),
    ],
)
def test_what_no_row_knows_has_no_code_and_is_quoted(error):
    assert start_error(error) is None
    assert with_code(error) == str(error)


def test_a_job_that_fails_at_its_start_is_told_with_code_and_hint(site):
    site.guest()
    engine = site.engine()
    migration = engine.start(site.ledger.instance("db1"), "beta")
    # the link goes after it was checked and plugged: only the start of the incoming guest finds out
    site.fleet.observe(lambda fleet: fleet.jobs and fleet.hosts["beta"].links.pop("enp7s0", None))
    with pytest.raises(MigrationFailed, match=r"the guest is on alpha: links: .*Unable to get index") as caught:
        engine.drive(migration.id)
    assert caught.value.hint.startswith("bring the link up there")
    ended = site.ledger.migration(migration.id)
    assert ended.reason.startswith("rolled back: links: ")
    said = [event.sentence for event in site.ledger.events(migration=migration.id)]
    assert any(re.match("live_migration failed: links: ", sentence) for sentence in said)
