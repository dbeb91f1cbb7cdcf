"""The deterministic part of the ledger: no clock, entropy, sockets or files."""
