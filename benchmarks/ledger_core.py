"""What an entry costs beside its signature check: `python -m benchmarks.ledger_core` from the repository root.

Each step is timed in small rounds, and the best round counts, so that a busy machine disturbs less.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import nacl.bindings

from ledger.core.encoding import Kind, signing_bytes
from ledger.core.entries import Transfer, decode_entry, sign_entry, verify_entry
from ledger.core.genesis import Genesis
from ledger.core.keys import SigningKey
from ledger.core.merkle import Peaks
from ledger.core.state import LedgerState, Moment, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

ENTRIES = 1000
ROUNDS = 25
ACCOUNTS = 100
TIME_MS = 10


def best_us(step: Callable[[], object]) -> float:
    """The CPU time of the fastest of ROUNDS runs, in microseconds per entry."""
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    return min(times) / ENTRIES * 1e6


def main() -> None:
    """Print microseconds per entry for each step, and the share of the signature check in all."""
    keys = [SigningKey(number.to_bytes(32, "big")) for number in range(1, ACCOUNTS + 1)]
    genesis = Genesis("benchmark", 0, (keys[0].account,), tuple((k.account, 10**9) for k in keys))
    network_id, at = genesis.network_id, Moment(1, TIME_MS, keys[0].account)
    encoded = []
    for number in range(ENTRIES):
        payer, payee = keys[number % ACCOUNTS], keys[(number + 1) % ACCOUNTS]
        action = Transfer(payee.account, 5)
        entry = sign_entry(
            payer, network_id, seq=1 + number // ACCOUNTS, not_after_ms=TIME_MS, fee=1, action=action
        )
        encoded.append(entry.encode())
    entries = [decode_entry(data) for data in encoded]
    signed = [(e.account, e.signature + signing_bytes(Kind.ENTRY, network_id, e.body())) for e in entries]

    def apply() -> None:
        state = LedgerState(genesis)
        for entry in entries:
            assert not isinstance(state.apply(entry, at), Refusal)

    steps: dict[str, Callable[[], object]] = {
        "decode": lambda: [decode_entry(data) for data in encoded],
        "verify": lambda: [verify_entry(entry, network_id) for entry in entries],
        "apply": apply,
        "Merkle tree": lambda: Peaks().extend(entry.encode() for entry in entries),
    }
    costs = {name: best_us(step) for name, step in steps.items()}
    pure = best_us(lambda: [nacl.bindings.crypto_sign_open(data, key) for key, data in signed])
    total = sum(costs.values())
    for name, cost in costs.items():
        print(f"{name:<28}{cost:8.2f} us")
    print(f"{'all':<28}{total:8.2f} us {1e6 / total:10.0f} entries per CPU second")
    print(f"{'libsodium verify alone':<28}{pure:8.2f} us {pure / total:10.2f} of all")


if __name__ == "__main__":
    main()
