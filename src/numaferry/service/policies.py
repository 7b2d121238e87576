"""Policies and limits of migrations, read from configuration; policies are laid over each other.

Layers, a later one winning field by field: what is built in, ``[migration]`` of the configuration file, ``migration``
of the source's entry in the hosts file, the instance's own (`numaferry instance policy`), the command.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from numaferry.errors import InvalidInput
from numaferry.model import Limits, PolicyWish, policy_of
from numaferry.model.queue import MOST_INCOMING
from numaferry.xdg import config_directory

if TYPE_CHECKING:
    from numaferry.ledger import Ledger
    from numaferry.model import Instance, MigrationPolicy

T = TypeVar("T", bound=BaseModel)

Count = Annotated[int, Field(ge=0, le=1_000_000)]
Percent = Annotated[int, Field(ge=0, le=99)]


class PolicyTable(BaseModel):
    """The keys of a ``migration`` table, their types and limits; what is left out is not said."""

    model_config = ConfigDict(extra="forbid", strict=True)

    bandwidth_mib_s: Count | None = None
    bandwidth_postcopy_mib_s: Count | None = None
    downtime_ms: Annotated[int, Field(ge=1, le=2_000_000)] | None = None
    downtime_steps: Annotated[int, Field(ge=1, le=100)] | None = None
    auto_converge: bool | None = None
    auto_converge_initial: Percent | None = None
    auto_converge_increment: Percent | None = None
    post_copy: Literal["never", "on-demand", "automatic"] | None = None
    post_copy_after_iterations: Annotated[int, Field(ge=1, le=1000)] | None = None
    parallel_connections: Annotated[int, Field(ge=0, le=255)] | None = None
    compression: Literal["", "xbzrle", "mt", "zlib", "zstd"] | None = None
    tls: bool | None = None
    completion_timeout_s: Count | None = None
    completion_timeout_s_per_gib: Count | None = None
    on_timeout: Literal["abort", "post-copy", "pause"] | None = None
    stall_timeout_s: Count | None = None
    on_no_convergence: Literal["ignore", "warn", "refuse"] | None = None
    shared_storage: bool | None = None
    copy_storage: Literal["none", "full", "incremental"] | None = None

    def wish(self) -> PolicyWish:
        """Return what is said."""
        return PolicyWish.of(**self.model_dump())


class LimitsTable(BaseModel):
    """The keys of ``[limits]``: migrations under way at once, 0 for no limit."""

    model_config = ConfigDict(extra="forbid", strict=True)

    per_source: Count = 2
    per_dest: Annotated[int, Field(ge=0, le=MOST_INCOMING)] = 2
    fleet: Count = 0


def config_path() -> Path:
    """Return the configuration file: NUMAFERRY_CONFIG, or ``config.toml`` in our XDG configuration directory."""
    named = os.environ.get("NUMAFERRY_CONFIG", "")
    return Path(named) if named else config_directory() / "config.toml"


def configured(path: Path | None = None) -> PolicyWish:
    """Return what the configuration file says of migrations; nothing where there is no file.

    Raises InvalidInput with file, key, value and what is allowed.
    """
    path = path or config_path()
    return read_table(_tables(path).get("migration", {}), where=f"{path}, [migration]")


def configured_limits(path: Path | None = None) -> Limits:
    """Return how many migrations may be under way at once, as the configuration file says; raises InvalidInput."""
    path = path or config_path()
    table = _checked(LimitsTable, _tables(path).get("limits", {}), where=f"{path}, [limits]")
    return Limits(**table.model_dump())


def _tables(path: Path) -> dict[str, Any]:
    """Return the tables of the configuration file, none where there is no file; raises InvalidInput."""
    if not path.is_file():
        return {}
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InvalidInput(f"{path} can't be read: {error}", hint="it is TOML; see docs/cli.md") from error
    if unknown := data.keys() - {"migration", "limits"}:
        raise InvalidInput(
            f"{path}: unknown table or key {min(unknown)!r}", hint="only [migration] and [limits] are read"
        )
    return data


def read_table(table: Any, *, where: str) -> PolicyWish:
    """Return what a ``migration`` table says; raises InvalidInput that names `where`."""
    return _checked(PolicyTable, table, where=where).wish()


def _checked(kind: type[T], table: Any, *, where: str) -> T:
    """Return a table whose keys and values are allowed; raises InvalidInput with the first that is not."""
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        key = str(fault["loc"][0]) if fault["loc"] else "?"
        allowed = ", ".join(kind.model_fields)
        if fault["type"] == "extra_forbidden":
            raise InvalidInput(f"{where}: unknown key {key!r}", hint=f"allowed are {allowed}") from None
        value = table.get(key) if isinstance(table, dict) else table
        raise InvalidInput(f"{where}: {key} = {value!r}: {fault['msg']}", hint=f"allowed are {allowed}") from None


def resolve(ledger: Ledger, instance: Instance, wish: PolicyWish) -> MigrationPolicy:
    """Return the policy of one migration of an instance: every layer, the command's `wish` last."""
    source = ledger.host(instance.host)
    return policy_of(configured(), source.config.migration, ledger.instance_policy(instance.uuid), wish)
