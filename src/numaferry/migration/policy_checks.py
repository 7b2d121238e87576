"""What a libvirt or QEMU can't do, or can't combine, of a policy: a table of rules, each with its source. Pure.

Refused before anything is claimed or touched, with the reason; what only the start of a job can tell is not here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from numaferry.migration.outcome import Check, Outcome
from numaferry.model import OnTimeout, PostCopy, version_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from numaferry.model import HostFacts, MigrationPolicy

NAME: Final = "policy"


class Rule(NamedTuple):
    """A policy that `applies` needs these versions, or newer ones, on both hosts; libvirt 0: none can do it."""

    applies: Callable[[MigrationPolicy], bool]
    words: str
    libvirt: int = 1
    qemu: int = 1
    #: The first QEMU that can't any more; 0: all later ones can.
    qemu_before: int = 0


_PARALLEL_ONLY: Final = frozenset({"zlib", "zstd"})
_NEVER: Final = 0

RULES: Final = (
    Rule(
        lambda policy: policy.parallel_connections > 0 and policy.post_copy is not PostCopy.NEVER,
        "post-copy together with parallel connections",
        # nova.conf, live_migration_parallel_connections
        qemu=10_001_000,
    ),
    Rule(
        lambda policy: policy.parallel_connections > 0 and policy.compression in _PARALLEL_ONLY,
        "compression of parallel connections",
        # libvirt NEWS 9.4.0
        libvirt=9_004_000,
    ),
    Rule(
        lambda policy: (
            policy.parallel_connections > 0 and bool(policy.compression) and policy.compression not in _PARALLEL_ONLY
        ),
        "parallel connections with a compression other than zlib and zstd",
        libvirt=_NEVER,
    ),
    Rule(
        lambda policy: policy.parallel_connections == 0 and policy.compression in _PARALLEL_ONLY,
        "zlib or zstd without parallel connections",
        libvirt=_NEVER,
    ),
    Rule(
        lambda policy: policy.compression == "mt",
        "compression by threads (mt)",
        # QEMU's removed features, 9.1: the compress migration capability
        qemu_before=9_001_000,
    ),
    Rule(
        lambda policy: policy.compression == "mt" and policy.post_copy is not PostCopy.NEVER,
        # QEMU, migration/options.c: "Postcopy is not compatible with compression"
        "post-copy together with compression by threads (mt)",
        libvirt=_NEVER,
    ),
    Rule(
        lambda policy: policy.on_timeout is OnTimeout.POST_COPY and policy.post_copy is PostCopy.NEVER,
        "post-copy at the timeout of a migration that may not use it (post_copy = never)",
        libvirt=_NEVER,
    ),
)


def check_policy(policy: MigrationPolicy, source: HostFacts, dest: HostFacts, host: str) -> tuple[Check, ...]:
    """Return a failed check for each rule that the policy breaks between these hosts, or one that says it is fine."""
    broken = [words for rule in RULES if rule.applies(policy) and (words := _why_not(rule, source, dest))]
    if not broken:
        return (Check(NAME, Outcome.OK, f"libvirt and QEMU on both hosts can do what the policy asks, to {host}"),)
    return tuple(Check(NAME, Outcome.FAILS, words) for words in broken)


def _why_not(rule: Rule, source: HostFacts, dest: HostFacts) -> str:
    """Return why a rule's policy can't be had, or ""."""
    if rule.libvirt == _NEVER:
        return f"the policy asks for {rule.words}, which can't be combined"
    for facts in (source, dest):
        libvirt, qemu = facts.libvirt_version, facts.hypervisor_version
        if libvirt < rule.libvirt:
            return _needs(rule, facts, "libvirt", f"{version_text(rule.libvirt)} or newer", libvirt)
        if qemu < rule.qemu:
            return _needs(rule, facts, "QEMU", f"{version_text(rule.qemu)} or newer", qemu)
        if rule.qemu_before and qemu >= rule.qemu_before:
            return _needs(rule, facts, "QEMU", f"a version before {version_text(rule.qemu_before)}", qemu)
    return ""


def _needs(rule: Rule, facts: HostFacts, what: str, wanted: str, found: int) -> str:
    return f"the policy asks for {rule.words}, which needs {what} {wanted}; {facts.hostname} has {version_text(found)}"
