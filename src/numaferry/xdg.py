"""Base directories of the XDG specification: where state and what is safe to lose are kept, for the ledger and the lab.

https://specifications.freedesktop.org/basedir-spec: a relative value is invalid and is ignored.
"""

from __future__ import annotations

import os
from pathlib import Path


def state_directory() -> Path:
    """Return ``$XDG_STATE_HOME/numaferry``, by default ``~/.local/state/numaferry``; it may not exist."""
    return _base("XDG_STATE_HOME", ".local/state") / "numaferry"


def config_directory() -> Path:
    """Return ``$XDG_CONFIG_HOME/numaferry``, by default ``~/.config/numaferry``; it may not exist."""
    return _base("XDG_CONFIG_HOME", ".config") / "numaferry"


def cache_directory() -> Path:
    """Return ``$XDG_CACHE_HOME/numaferry``, by default ``~/.cache/numaferry``; it may not exist."""
    return _base("XDG_CACHE_HOME", ".cache") / "numaferry"


def _base(variable: str, below_home: str) -> Path:
    value = os.environ.get(variable, "")
    return Path(value) if value.startswith("/") else Path.home() / below_home
