"""One entry of every rarer type, as SPEC.md §3 shows them: the network, Alice and Bob of the other examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.core.encoding import digest
from ledger.core.entries import (
    NO_APPROVALS,
    Action,
    Approvals,
    Decree,
    Dispute,
    Entry,
    Limit,
    Lock,
    Param,
    Rekey,
    Release,
    Rotate,
    Verdict,
    arbiters_hash,
    sign_decree,
    sign_entry,
    sign_rekey,
    sign_verdict,
)
from ledger.core.keys import SigningKey
from ledger.core.params import Params

if TYPE_CHECKING:
    from ledger.core.encoding import NetworkId

WITNESS, ALICE, BOB, NEW_KEY, RECOVERY = (
    SigningKey(bytes((number,)) * 32) for number in (0x01, 0x0A, 0x0B, 0x0C, 0x0D)
)
CREATED_MS = 1_700_000_000_000
ARBITERS = (WITNESS.account,)


def rare_examples(network_id: NetworkId) -> dict[str, str]:
    """Name → hex. Decrees are approved by Alice, as if she were the network's only governor."""

    def sign(key: SigningKey, seq: int, action: Action) -> Entry:
        return sign_entry(key, network_id, seq=seq, not_after_ms=CREATED_MS + 120_000, fee=10, action=action)

    def approved(decree: Decree) -> Approvals:
        return Approvals(1, (sign_decree(ALICE, network_id, decree),))

    named = arbiters_hash(ARBITERS)
    terms, expiry_ms = digest(b"terms"), CREATED_MS + 3_600_000
    lock = sign(ALICE, 3, Lock(BOB.account, 5_000_000, expiry_ms, terms, 86_400_000, named, 1, 2_500))
    lock_id = lock.entry_id(network_id)
    award = Approvals(1, (sign_verdict(WITNESS, network_id, lock_id, 4_000_000),))
    proof = sign_rekey(NEW_KEY, network_id, ALICE.account, 1, RECOVERY.account)
    limit = Limit(BOB.account, 1_000_000, 1, NO_APPROVALS)
    param = Param(2, 5_000, Params(1, 10, 1_000, 1_000), NO_APPROVALS)
    rotate = Rotate(3, (WITNESS.account, BOB.account), NO_APPROVALS)
    entries = {
        "disputable lock": lock,
        "release": sign(ALICE, 4, Release(lock_id)),
        "dispute": sign(BOB, 2, Dispute(lock_id, digest(b"evidence"))),
        "verdict": sign(BOB, 3, Verdict(lock_id, 4_000_000, ARBITERS, award)),
        "delegation": sign(ALICE, 5, Limit(BOB.account, -1_000_000)),
        "limit decree": sign(ALICE, 6, Limit(BOB.account, 1_000_000, 1, approved(limit))),
        "param": sign(ALICE, 7, Param(2, 5_000, param.params, approved(param))),
        "rotate": sign(ALICE, 8, Rotate(3, rotate.witnesses, approved(rotate))),
        "rekey": sign(ALICE, 1, Rekey(NEW_KEY.account, RECOVERY.account, proof)),
    }
    return {
        "arbiters hash": named.hex(),
        "disputable lock id": lock_id.hex(),
        **{name: entry.encode().hex() for name, entry in entries.items()},
    }
