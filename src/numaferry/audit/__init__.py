"""The audit: the ledger against what hosts tell, findings in words, never a hand on a guest."""
