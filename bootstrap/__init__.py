"""The entry point that operators run: bootstrap node, witness and network files (SPEC.md §8)."""
