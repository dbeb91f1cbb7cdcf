"""Who holds what, provably: an append-only credit ledger ordered by a witness committee (SPEC.md §3-§8)."""
