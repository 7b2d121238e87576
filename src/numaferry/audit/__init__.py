"""The audit: the ledger against what hosts tell, findings in words, never a hand on a guest."""

from numaferry.audit.decisions import find
from numaferry.audit.findings import Finding, Severity
from numaferry.audit.update import AuditResult, update_available_resource

__all__ = ["AuditResult", "Finding", "Severity", "find", "update_available_resource"]
