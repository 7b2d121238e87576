"""The options of a migration's policy, the same for `migrate` and `instance policy`, and how a policy is told."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import attrs
import click

from numaferry.model import MigrationPolicy, PolicyWish

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")

_COUNT: Final = click.IntRange(0)
#: Option, field of the policy, and click's words for it; in the order in which they are shown.
OPTIONS: Final[tuple[tuple[str, str, dict[str, Any]], ...]] = (
    ("--bandwidth", "bandwidth_mib_s", {"type": _COUNT, "metavar": "MiB/s", "help": "Limit of the copy; 0: none."}),
    (
        "--postcopy-bandwidth",
        "bandwidth_postcopy_mib_s",
        {"type": _COUNT, "metavar": "MiB/s", "help": "Limit of the copy in post-copy; 0: none."},
    ),
    (
        "--downtime",
        "downtime_ms",
        {"type": click.IntRange(1), "metavar": "MS", "help": "Longest pause at the switch that is accepted; 500."},
    ),
    (
        "--downtime-steps",
        "downtime_steps",
        {"type": click.IntRange(1, 100), "metavar": "N", "help": "Passes over the memory until that is allowed; 10."},
    ),
    (
        "--auto-converge/--no-auto-converge",
        "auto_converge",
        {"default": None, "help": "Throttle a guest that dirties memory faster than it is copied."},
    ),
    (
        "--auto-converge-initial",
        "auto_converge_initial",
        {"type": click.IntRange(0, 99), "metavar": "%", "help": "CPU time taken from it at first; 0: QEMU's 20."},
    ),
    (
        "--auto-converge-increment",
        "auto_converge_increment",
        {"type": click.IntRange(0, 99), "metavar": "%", "help": "And more at each step; 0: QEMU's 10."},
    ),
    (
        "--post-copy",
        "post_copy",
        {
            "type": click.Choice(["never", "on-demand", "automatic"]),
            "help": "May it run on the destination before its memory is there? It is lost then with either host.",
        },
    ),
    (
        "--post-copy-after",
        "post_copy_after_iterations",
        {"type": click.IntRange(1), "metavar": "N", "help": "Passes after which `automatic` does; 3."},
    ),
    (
        "--parallel",
        "parallel_connections",
        {"type": click.IntRange(0, 255), "metavar": "N", "help": "Connections that memory is sent over at once."},
    ),
    (
        "--compression",
        "compression",
        {"type": click.Choice(["xbzrle", "mt", "zlib", "zstd"]), "help": "zlib and zstd with --parallel only."},
    ),
    ("--tls/--no-tls", "tls", {"default": None, "help": "Encrypt the copy with the hosts' own certificates."}),
    (
        "--timeout",
        "completion_timeout_s",
        {"type": _COUNT, "metavar": "S", "help": "Seconds within which it has to end; 0: none."},
    ),
    (
        "--timeout-per-gib",
        "completion_timeout_s_per_gib",
        {"type": _COUNT, "metavar": "S", "help": "Seconds added for each GiB of the guest's memory."},
    ),
    (
        "--on-timeout",
        "on_timeout",
        {"type": click.Choice(["abort", "post-copy", "pause"]), "help": "What is done then; abort."},
    ),
    (
        "--stall-timeout",
        "stall_timeout_s",
        {"type": _COUNT, "metavar": "S", "help": "A copy that moves no byte for so long is given up; 60, 0: never."},
    ),
    (
        "--on-no-convergence",
        "on_no_convergence",
        {
            "type": click.Choice(["ignore", "warn", "refuse"]),
            "help": "Estimate before the start, and do this if it would not end by itself; ignore: no estimate.",
        },
    ),
    (
        "--shared-storage/--no-shared-storage",
        "shared_storage",
        {"default": None, "help": "Say that both hosts see the disks of which nothing proves it."},
    ),
    (
        "--copy-storage",
        "copy_storage",
        {
            "type": click.Choice(["none", "full", "incremental"]),
            "is_flag": False,
            "flag_value": "full",
            "help": "Copy the disks that are not shared: whole, or what lies above shared images; alone: full.",
        },
    ),
)


def policy_options(function: F) -> F:
    """Add every option of a policy; the command is given one argument `policy`, a PolicyWish."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        said = {field: kwargs.pop(field) for _, field, _ in OPTIONS}
        return function(*args, policy=PolicyWish.of(**said), **kwargs)

    decorated: Any = call
    for option, field, words in reversed(OPTIONS):
        decorated = click.option(option, field, **words)(decorated)
    return cast("F", decorated)


def policy_words(policy: MigrationPolicy) -> str:
    """Return what a policy says beyond what is built in, "as built in" where that is nothing."""
    usual = MigrationPolicy()
    said = [
        f"{field.name} = {value}"
        for field in attrs.fields(MigrationPolicy)
        if (value := getattr(policy, field.name)) != getattr(usual, field.name)
    ]
    return ", ".join(said) or "as built in"


def wish_words(wish: PolicyWish) -> str:
    """Return what one layer says."""
    return ", ".join(f"{name} = {value}" for name, value in wish.said) or "nothing of its own"
