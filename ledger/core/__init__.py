"""The deterministic part of the ledger: no clock, entropy, sockets or files.

Ground: `keys`, `encoding`, `amounts`, `genesis`. What is recorded: `entries`. What it means: `state` decides,
`holdings` keep, `snapshot` writes it down. How it is proved: `merkle`, `votes`, `block`, `receipt`. A second
reading of the same rules: `books` and `audit`. How witnesses agree on one order: start at `simplex`.
"""
