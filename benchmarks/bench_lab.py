"""A lab for a benchmark, and what libvirt counted of a move in it."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import libvirt

from numaferry.lab import control

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numaferry.lab.model import Kind, Lab


@contextlib.contextmanager
def lab_of(kind: Kind, name: str, notations: tuple[str, ...] = ()) -> Iterator[Lab]:
    """A lab that is gone in the end, whatever happens."""
    control.down(name=name)
    try:
        yield control.up(kind, name=name, notations=notations, say=lambda line: print(line, file=sys.stderr))
    finally:
        control.down(name=name)


def completed_job(uri: str, name: str) -> dict[str, Any]:
    """Return what libvirt counted of the last move of a guest to this host."""
    connection = libvirt.open(uri)
    try:
        stats: dict[str, Any] = connection.lookupByName(name).jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
    finally:
        connection.close()
    return stats
