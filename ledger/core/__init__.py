"""The deterministic part of the ledger: no clock, entropy, sockets or files.

Ground: `keys`, `encoding`, `amounts`, `genesis`. What is recorded: `entries`, which ask for `actions`. What it means:
`state` decides by the rules in `settlement` and `authority`, `holdings` keep, `snapshot` writes it down; `bulk` does
the same for whole blocks at once. How it is proved: `merkle`, `votes`, `block`, `heads`, `handover`, `receipt`; who
follows without the ledger: `light`; who lied: `evidence`. A second reading of the same rules: `books` and `audit`.
How witnesses agree on one order: start at `simplex`.
"""
