"""`Ferry`: the one object that faces call. It returns values; what they look like is the faces' matter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from numaferry.errors import NotFound
from numaferry.service import hosts, instances
from numaferry.service.discovery import Reach

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import TracebackType

    from numaferry.ledger import Ledger
    from numaferry.ledger.upgrades import LedgerUpgrade
    from numaferry.ledger.usage import HostUsage
    from numaferry.model import CpuSet, HostConfig, Migration, PolicyWish
    from numaferry.service.config import HostEntry
    from numaferry.service.driving import Watch
    from numaferry.service.hostmap import HostMap
    from numaferry.service.views import (
        AdoptLine,
        AuditReport,
        EstimateShow,
        Explanation,
        ForceForecast,
        HostLine,
        HostShow,
        InstanceLine,
        InstanceShow,
        LedgerExplanation,
        MigrationLine,
        MigrationShow,
        Plan,
        Recovered,
        ScanReport,
        WatchLine,
    )
    from numaferry.virt.port import Hypervisor


def _connect(uri: str) -> Hypervisor:
    """Open a host by its URI."""
    from numaferry.virt import connect  # noqa: PLC0415  (a ledger alone needs no hypervisor)

    return connect(uri)


class Ferry:
    """Everything that can be asked of numaferry; without a ledger only `scan` and `ledger_upgrade` can be."""

    def __init__(self, ledger: Ledger | None = None, connect: Callable[[str], Hypervisor] | None = None) -> None:
        self._left = False
        self._ledger = ledger
        self._reach = Reach(connect if connect is not None else _connect)

    @classmethod
    def open(cls, url: str | None = None) -> Ferry:
        """Open the ledger (by URL, NUMAFERRY_DB, or in the XDG state directory); raises LedgerUnusable."""
        from numaferry.ledger import open_ledger  # noqa: PLC0415  (scan needs no database)

        return cls(open_ledger(url))

    @property
    def ledger(self) -> Ledger:
        """The ledger; raises NotFound where this Ferry was made without one."""
        if self._ledger is None:
            raise NotFound("this command was started without a ledger", hint="name one with --db")
        return self._ledger

    def close(self) -> None:
        """Close connections and the ledger; safe to repeat."""
        if self._left:
            return
        self._reach.close()
        if self._ledger is not None:
            self._ledger.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- looking, without a ledger

    def scan(self, uris: Sequence[str], configs: Mapping[str, HostConfig] | None = None) -> ScanReport:
        """Look at hosts: what is wrong today, what could move where. Reads only; see `service.scan`."""
        from numaferry.service.scan import scan  # noqa: PLC0415  (the fit is imported only for those who fit)

        return scan(self._reach, uris, configs)

    # -- a ledger of an older numaferry, which can't be opened

    def ledger_upgrade(self, url: str | None = None, *, has_backup: bool = False) -> LedgerUpgrade:
        """Bring the ledger at `url` (as for `open`) to this numaferry's schema; see `ledger.upgrades`."""
        from numaferry.ledger.upgrades import upgrade_ledger  # noqa: PLC0415  (imported by who needs it)

        return upgrade_ledger(url, has_backup=has_backup)

    # -- hosts

    def host_add(
        self,
        name: str,
        uri: str,
        *,
        config: HostConfig | None = None,
        isolated: CpuSet | None = None,
        take_over: bool = False,
    ) -> HostShow:
        """Look at a host and add it; see `service.hosts.add`."""
        return hosts.add(self.ledger, self._reach, name, uri, config=config, isolated=isolated, take_over=take_over)

    def import_hosts(self, entries: Iterable[HostEntry], *, take_over: bool = False) -> tuple[HostShow, ...]:
        """Add or update all hosts of a file; see `service.hosts.import_entries`."""
        return hosts.import_entries(self.ledger, self._reach, entries, take_over=take_over)

    def host_confirm(self, name: str, **sets: CpuSet | None) -> HostShow:
        """Open a host for claims; `dedicated`, `shared` and `migration` as `service.hosts.confirm` says."""
        return hosts.confirm(self.ledger, self._reach, name, **sets)

    def host_list(self) -> tuple[HostLine, ...]:
        """Return a row per host."""
        return hosts.lines(self.ledger)

    def host_show(self, name: str) -> HostShow:
        """Return one host; raises NotFound."""
        return hosts.explained(self.ledger, self._reach, name)

    def host_usage(self, name: str) -> HostUsage:
        """Return own, incoming and outgoing use per cell; raises NotFound."""
        from numaferry.service import reports  # noqa: PLC0415  (imported by who needs it)

        return reports.usage(self.ledger, name)

    def host_remove(self, name: str) -> None:
        """Forget a host; raises NotFound, Conflict while claims or migrations are there."""
        self.ledger.remove_host(name)

    def topology(self, name: str, *, refresh: bool = True) -> HostMap:
        """Return the picture's subject, after a fresh look at the host if it can be reached; raises NotFound."""
        record = self.ledger.host(name)
        trouble = hosts.try_refresh(self.ledger, self._reach, record) if refresh else ""
        note = f"as last seen; the host can't be asked now: {trouble}" if trouble else ""
        return hosts.host_map(self.ledger, name, note=note)

    # -- instances

    def instance_list(self, host: str | None = None) -> tuple[InstanceLine, ...]:
        """Return a row per instance."""
        return instances.lines(self.ledger, host)

    def instance_show(self, ref: str) -> InstanceShow:
        """Return one instance; raises NotFound, Ambiguous."""
        return instances.show(self.ledger, ref)

    def adopt(
        self,
        names: Sequence[str] = (),
        *,
        host: str | None = None,
        everything: bool = False,
        dry_run: bool = False,
        force: bool = False,
    ) -> tuple[AdoptLine, ...]:
        """Adopt running domains; see `service.instances.adopt`."""
        return instances.adopt(
            self.ledger, self._reach, names, host=host, everything=everything, dry_run=dry_run, force=force
        )

    def instance_forget(self, ref: str) -> str:
        """Forget an instance, which runs on unmanaged; returns its name. See `service.instances.forget`."""
        return instances.forget(self.ledger, self._reach, ref)

    def instance_policy(self, ref: str, wish: PolicyWish | None = None) -> PolicyWish:
        """Return what is said of an instance's migrations, after replacing it with `wish` where that is given."""
        uuid = self.ledger.instance(ref).uuid
        if wish is not None:
            self.ledger.set_instance_policy(uuid, wish)
        return self.ledger.instance_policy(uuid)

    # -- moving

    def plan(self, ref: str, dest: str | None = None, *, policy: PolicyWish | None = None, force: bool = False) -> Plan:
        """Return what `migrate` would do; touches nothing. See `service.plans`."""
        from numaferry.service import plans  # noqa: PLC0415  (imported by who needs it)

        return plans.plan(self.ledger, self._reach, ref, dest, policy=policy, force=force)

    def estimate(self, ref: str, dest: str | None = None, *, policy: PolicyWish | None = None) -> EstimateShow:
        """Measure an instance for some seconds and return how its migration would go; see `service.estimates`."""
        from numaferry.service import estimates  # noqa: PLC0415  (imported by who needs it)

        return estimates.estimate(self.ledger, self._reach, ref, dest, policy=policy)

    def migrate(
        self,
        ref: str,
        dest: str | None = None,
        *,
        policy: PolicyWish | None = None,
        force: bool = False,
        priority: int = 0,
        watch: Watch | None = None,
    ) -> MigrationShow:
        """Claim and move; see `service.moves.migrate`."""
        from numaferry.service import moves  # noqa: PLC0415  (imported by who needs it)

        try:
            return moves.migrate(
                self.ledger, self._reach, ref, dest, policy=policy, force=force, priority=priority, watch=watch
            )
        except moves.LeftAlone:
            # The worker still uses both; closed under it, it would take that for a failure of the hosts.
            self._left = True
            raise

    def stale(self, ref: str) -> tuple[Migration, ...]:
        """Return the migrations in progress of an instance whose controller is gone."""
        from numaferry.service import recovering  # noqa: PLC0415  (imported by who needs it)

        return recovering.stale(self.ledger, self.ledger.instance(ref).uuid)

    def migration_list(self, *, instance: str | None = None, in_progress: bool = False) -> tuple[MigrationLine, ...]:
        """Return migrations, newest first."""
        from numaferry.service import moves  # noqa: PLC0415  (imported by who needs it)

        return moves.lines(self.ledger, instance=instance, in_progress=in_progress)

    def migration_show(self, ref: str) -> MigrationShow:
        """Return one migration by id or UUID with its history; raises NotFound."""
        from numaferry.service import moves  # noqa: PLC0415  (imported by who needs it)

        return moves.show(self.ledger, self.ledger.migration(ref))

    def migration_watch(self, ref: str, tell: Callable[[WatchLine], None]) -> WatchLine:
        """Tell a migration, or an instance's newest one, as it goes until its end; see `service.watching`."""
        from numaferry.service import watching  # noqa: PLC0415  (imported by who needs it)

        return watching.watch(self.ledger, ref, tell)

    def migration_abort(self, ref: str) -> MigrationLine:
        """Ask for a migration to be given up; raises NotFound, Conflict once it has ended or passed its return."""
        from numaferry.service import moves  # noqa: PLC0415  (imported by who needs it)

        return moves.abort(self.ledger, self._reach, ref)

    def migration_force_forecast(self, ref: str, how: str | None = None) -> ForceForecast:
        """Say how a running migration's end would be forced, and what pause that means; see `service.forcing`."""
        from numaferry.service import forcing  # noqa: PLC0415  (imported by who needs it)

        return forcing.forecast(self.ledger, self._reach, ref, how)

    def migration_force_complete(self, ref: str, how: str) -> MigrationLine:
        """Force a running migration's end; raises NotFound, Conflict where no job runs or its policy forbids it."""
        from numaferry.service import forcing  # noqa: PLC0415  (imported by who needs it)

        return forcing.force(self.ledger, ref, how)

    def migration_recover(
        self, ref: str | None = None, *, answer: str | None = None, watch: Watch | None = None
    ) -> tuple[Recovered, ...]:
        """Converge one migration, or all whose controller is gone; see `service.recovering.recover`."""
        from numaferry.service import recovering  # noqa: PLC0415  (imported by who needs it)

        return recovering.recover(self.ledger, self._reach, ref, answer=answer, watch=watch)

    # -- serving

    def serve(
        self,
        stop: threading.Event,
        say: Callable[[str], None],
        *,
        name: str = "",
        parallel: int | None = None,
        look_s: float | None = None,
    ) -> None:
        """Run a controller until `stop` is set; see `service.controller`."""
        from numaferry.service import controller as serving  # noqa: PLC0415  (imported by who needs it)

        made = serving.Controller(
            self.ledger,
            self._reach,
            say,
            name=name,
            parallel=parallel or serving.PARALLEL,
            look_s=look_s or serving.LOOK_S,
        )
        try:
            made.run(stop)
        finally:
            # Threads that drive may still use both; closed under them, they would take that for a failure of the hosts.
            self._left = True

    # -- explaining

    def explain(self, ref: str, host: str | None = None) -> tuple[Explanation, ...]:
        """Say of one host or of all whether an instance fits there now, and if not, why."""
        from numaferry.service import reports  # noqa: PLC0415  (imported by who needs it)

        return reports.explain(self.ledger, self._reach, ref, host)

    def audit(self, host: str | None = None) -> AuditReport:
        """Hold the ledger against reality, on one host or all."""
        from numaferry.service import reports  # noqa: PLC0415  (imported by who needs it)

        return reports.audit(self.ledger, self._reach, host)

    def ledger_explain(self, host: str) -> LedgerExplanation:
        """Say of every CPU and page pool of a host which claim holds it, and why."""
        from numaferry.service import reports  # noqa: PLC0415  (imported by who needs it)

        return reports.ledger_explain(self.ledger, host)
