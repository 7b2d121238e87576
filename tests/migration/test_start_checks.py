"""Can the destination's libvirt start the guest: a plain no refuses, everything doubtful is unknown and never ok."""

import attrs
import pytest

from numaferry.errors import CheckFailed
from numaferry.migration.outcome import Outcome
from numaferry.migration.start_checks import StartAsked, check_start
from numaferry.model import YES, Answer, GuestSupport, HostCpu, MigrationStatus, Said, StartNeeds

NEEDS = StartNeeds(machine="pc-q35-7.2", emulator="/usr/bin/qemu", cpu_mode="custom", cpu_check="full")
ABLE = GuestSupport(emulator=YES, machine=YES, cpu=YES, emulated_tpm=YES)
INTEL = HostCpu("Intel", "Cascadelake-Server", frozenset({"avx512f"}), 2_500_000_000, tsc_scaling=False)


def no(words="it says no"):
    return Answer(Said.NO, words)


def look(name, needs=NEEDS, dest=ABLE, source=ABLE, qemu=7_002_000):
    """The one check of this name, or None where there is none."""
    checks = check_start(StartAsked(needs, source), dest, "beta", source_qemu=qemu)
    return next((check for check in checks if check.name == name), None)


def outcome(name, **words):
    return look(name, **words).outcome


def test_a_host_that_can_start_the_guest_is_ok_in_all():
    checks = check_start(StartAsked(NEEDS, ABLE), ABLE, "beta", source_qemu=7_002_000)
    assert {check.name: check.outcome for check in checks} == {
        "emulator": Outcome.OK,
        "machine": Outcome.OK,
        "cpu": Outcome.OK,
    }


def test_a_host_that_tells_nothing_is_never_ok_and_never_refused():
    needs = attrs.evolve(
        NEEDS, tsc_hz=1, loader="/f.fd", emulated_tpm=True, seclabels=frozenset({"selinux"}), volumes=(("p", "v"),)
    )
    checks = check_start(StartAsked(needs), GuestSupport(), "beta", source_qemu=0)
    assert len(checks) == 8
    assert {check.outcome for check in checks} == {Outcome.UNKNOWN}


@pytest.mark.parametrize("name", ["emulator", "machine", "cpu"])
def test_a_plain_no_is_quoted(name):
    check = look(name, dest=attrs.evolve(ABLE, **{name: no("missing features: avx512f")}))
    assert check.outcome is Outcome.FAILS
    assert "missing features: avx512f" in check.reason
    assert "beta" in check.reason


def test_a_libvirt_that_refuses_the_cpu_of_its_own_running_guest_proves_nothing():
    """By this comparison nova refused guests that would have run (Launchpad 1898715, 1913716)."""
    dest, source = attrs.evolve(ABLE, cpu=no("missing features: svm")), attrs.evolve(ABLE, cpu=no())
    assert outcome("cpu", dest=dest, source=source) is Outcome.UNKNOWN
    assert outcome("cpu", dest=dest, source=attrs.evolve(ABLE, cpu=Answer())) is Outcome.UNKNOWN
    assert outcome("cpu", dest=dest) is Outcome.FAILS


def test_a_cpu_that_libvirt_does_not_check_is_no_reason_to_refuse():
    needs = attrs.evolve(NEEDS, cpu_check="none")
    check = look("cpu", needs=needs, dest=attrs.evolve(ABLE, cpu=no("missing features: svm")))
    assert check.outcome is Outcome.UNKNOWN
    assert "svm" in check.reason


@pytest.mark.parametrize("mode", ["", "maximum"])
def test_a_cpu_that_is_not_named_is_not_known(mode):
    assert outcome("cpu", needs=attrs.evolve(NEEDS, cpu_mode=mode)) is Outcome.UNKNOWN


@pytest.mark.parametrize(
    ("there", "expected", "words"),
    [
        (INTEL, Outcome.UNKNOWN, "microcode"),
        (attrs.evolve(INTEL, vendor="AMD", model="EPYC"), Outcome.FAILS, "Intel on the source, AMD on beta"),
        (attrs.evolve(INTEL, model="Icelake-Server"), Outcome.UNKNOWN, "not the same"),
        (attrs.evolve(INTEL, features=frozenset()), Outcome.UNKNOWN, "lacks avx512f"),
        (HostCpu(), Outcome.UNKNOWN, "do not both tell"),
    ],
)
def test_a_cpu_that_is_passed_through_is_never_ok(there, expected, words):
    needs = attrs.evolve(NEEDS, cpu_mode="host-passthrough")
    source, dest = attrs.evolve(ABLE, host_cpu=INTEL), attrs.evolve(ABLE, host_cpu=there)
    check = look("cpu", needs=needs, source=source, dest=dest)
    assert (check.outcome, words in check.reason) == (expected, True)


@pytest.mark.parametrize(
    ("hz", "scaling", "kind", "expected"),
    [
        (2_500_000_000, False, "kvm", Outcome.OK),
        (2_500_625_000, False, "kvm", Outcome.OK),
        (2_500_626_000, False, "kvm", Outcome.FAILS),
        (2_500_626_000, False, "qemu", Outcome.UNKNOWN),
        (2_600_000_000, True, "kvm", Outcome.OK),
        (2_600_000_000, None, "kvm", Outcome.UNKNOWN),
    ],
)
def test_a_fixed_tsc_frequency_is_within_250_ppm_or_scaled(hz, scaling, kind, expected):
    dest = attrs.evolve(ABLE, host_cpu=attrs.evolve(INTEL, tsc_scaling=scaling))
    needs = attrs.evolve(NEEDS, tsc_hz=hz, domain_type=kind)
    assert outcome("tsc-frequency", needs=needs, dest=dest) is expected


def test_firmware_that_is_not_listed_may_still_be_there():
    needs = attrs.evolve(NEEDS, loader="/usr/share/OVMF/OVMF_CODE.fd")
    listed = attrs.evolve(ABLE, loaders=frozenset({"/usr/share/OVMF/OVMF_CODE.fd"}))
    assert outcome("firmware", needs=needs, dest=listed) is Outcome.OK
    assert outcome("firmware", needs=needs, dest=attrs.evolve(ABLE, loaders=frozenset())) is Outcome.UNKNOWN
    assert look("firmware", dest=listed) is None


def test_an_emulated_tpm_needs_swtpm_there():
    needs = attrs.evolve(NEEDS, emulated_tpm=True)
    assert outcome("tpm-backend", needs=needs) is Outcome.OK
    assert outcome("tpm-backend", needs=needs, dest=attrs.evolve(ABLE, emulated_tpm=no())) is Outcome.FAILS


def test_a_security_model_that_only_the_source_has_is_refused():
    needs = attrs.evolve(NEEDS, seclabels=frozenset({"apparmor"}))
    with_it, without = (attrs.evolve(ABLE, secmodels=frozenset(names)) for names in (("apparmor", "dac"), ("dac",)))
    assert outcome("seclabel", needs=needs, dest=with_it, source=with_it) is Outcome.OK
    assert outcome("seclabel", needs=needs, dest=without, source=with_it) is Outcome.FAILS
    assert outcome("seclabel", needs=needs, dest=without, source=without) is Outcome.UNKNOWN


def test_a_volume_needs_its_pool_active():
    needs = attrs.evolve(NEEDS, volumes=(("fast", "db1"), ("slow", "db1-log")))
    dest = attrs.evolve(ABLE, volumes=(YES, no("storage pool slow is not active")))
    check = look("volumes", needs=needs, dest=dest)
    assert check.outcome is Outcome.FAILS
    assert check.reason == "host beta lacks the pool of: slow/db1-log (storage pool slow is not active)"
    assert outcome("volumes", needs=needs, dest=attrs.evolve(ABLE, volumes=(YES, YES))) is Outcome.OK
    assert outcome("volumes", needs=needs, dest=attrs.evolve(ABLE, volumes=(YES, Answer()))) is Outcome.UNKNOWN


@pytest.mark.parametrize(
    ("qemu", "expected"), [(3_001_000, Outcome.FAILS), (4_000_000, Outcome.OK), (0, Outcome.UNKNOWN)]
)
def test_cached_disks_are_safe_from_qemu_4_0_on(qemu, expected):
    """There libvirt asks for no cache mode: QEMU drops its caches itself, and a refusal would be false."""
    assert outcome("disk-cache", needs=attrs.evolve(NEEDS, cached_disks=("vda",)), qemu=qemu) is expected


def test_a_host_that_can_not_give_the_cpu_is_passed_over_and_nothing_is_claimed_on_it(site):
    uuid = site.guest()
    instance = site.ledger.instance("db1")
    unable = attrs.evolve(site.fleet.hosts["beta"].support, machine=no("the machine 'q35' is not supported"))
    site.fleet.hosts["beta"].support = unable
    with pytest.raises(CheckFailed, match="host beta can't run machine type q35: the machine 'q35' is not supported"):
        site.engine().start(instance, "beta")
    assert site.ledger.migrations(instance=uuid) == ()
    assert site.engine().start(instance).dest == "gamma"


def test_a_host_that_has_changed_since_the_claim_is_refused_before_it_is_touched(site):
    site.guest()
    engine = site.engine()
    migration = engine.start(site.ledger.instance("db1"), "beta")
    site.fleet.hosts["beta"].support = attrs.evolve(site.fleet.hosts["beta"].support, emulator=no("No such file"))
    with pytest.raises(CheckFailed, match="host beta has no default emulator: No such file"):
        engine.drive(migration.id)
    assert site.ledger.migration(migration.id).status is MigrationStatus.FAILED
