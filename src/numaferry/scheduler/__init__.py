"""The scheduler: an ordered shortlist of destinations from snapshots. The ledger has the last word."""

from numaferry.scheduler.select import Destinations, select_destinations

__all__ = ["Destinations", "select_destinations"]
