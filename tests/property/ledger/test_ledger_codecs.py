"""Every codec of the ledger: decode(encode(x)) == x, one encoding per value, and garbage is only a WireError."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.core.amounts import AMOUNT_MAX, LIMIT_SUM_MAX
from ledger.core.block import Block, Certificate, FinalBlock, Header, Proposal, Vote, sign_proposal, sign_vote
from ledger.core.committee import WITNESSES_MAX
from ledger.core.encoding import Kind, WireError
from ledger.core.entries import (
    NO_KEY,
    SEQUENCE_MAX,
    Action,
    Approvals,
    Claim,
    Dispute,
    Entry,
    Expire,
    Limit,
    Lock,
    Param,
    Rekey,
    Release,
    Rotate,
    Transfer,
    Verdict,
    Voucher,
    decode_entry,
    decode_voucher,
)
from ledger.core.genesis import TIME_MS_MAX, Genesis
from ledger.core.heads import CertifiedHeader
from ledger.core.keys import AccountId, is_strict_point
from ledger.core.params import SLOT_TIMEOUT_MS_MAX, VERSION_MAX, Params
from ledger.core.receipt import Leaf, Receipt
from tests.core.ledger.ledger_forge import ALICE, BOB, WITNESSES, Forge

# A busy machine is no failure: no deadline per example, no complaint about slow generation.
STEADY = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])

hashes = st.binary(min_size=32, max_size=32)
signatures = st.binary(min_size=64, max_size=64)
accounts = hashes.filter(is_strict_point).map(AccountId)
amounts = st.integers(1, AMOUNT_MAX)
times = st.integers(0, TIME_MS_MAX)
numbers = st.integers(1, SEQUENCE_MAX)
deltas = st.integers(-LIMIT_SUM_MAX, LIMIT_SUM_MAX).filter(bool)
params = st.builds(
    Params,
    version=st.integers(1, VERSION_MAX),
    fee_min=st.integers(0, AMOUNT_MAX),
    dispute_fee=st.integers(0, AMOUNT_MAX),
    slot_timeout_ms=st.integers(1, SLOT_TIMEOUT_MS_MAX),
)


def approvals_of(signers: int) -> Approvals:
    return Approvals(signers, tuple(bytes((i,)) * 64 for i in range(signers.bit_count())))


def account_lists(count_max: int) -> st.SearchStrategy[list[AccountId]]:
    return st.lists(accounts, min_size=1, max_size=count_max, unique=True)


approvals = st.integers(0, (1 << 16) - 1).map(approvals_of)
actions: st.SearchStrategy[Action] = st.one_of(
    st.builds(Transfer, to=accounts, amount=amounts, memo_hash=hashes),
    st.builds(Lock, payee=accounts, amount=amounts, expiry_ms=times, terms_hash=hashes),
    st.builds(Claim, lock_id=hashes, cumulative=amounts, voucher_signature=signatures),
    st.builds(Claim, lock_id=hashes, cumulative=st.just(0)),
    st.builds(Expire, lock_id=hashes),
    st.builds(Release, lock_id=hashes),
    st.builds(Dispute, lock_id=hashes, evidence_hash=hashes),
    st.builds(
        Verdict,
        lock_id=hashes,
        payee_amount=st.integers(0, AMOUNT_MAX),
        arbiters=account_lists(16).map(sorted).map(tuple),
        approvals=st.builds(approvals_of, st.just(1)),
    ),
    st.builds(Limit, beneficiary=accounts, delta=deltas),
    st.builds(Limit, beneficiary=accounts, delta=deltas, decree=numbers, approvals=approvals),
    st.builds(Rekey, new_key=accounts, recovery=accounts | st.just(NO_KEY), proof=signatures),
    st.builds(Rotate, decree=numbers, witnesses=account_lists(64).map(tuple), approvals=approvals),
    st.builds(Param, decree=numbers, from_height=numbers, params=params, approvals=approvals),
)
entries = st.builds(
    Entry,
    account=accounts,
    seq=st.integers(1, SEQUENCE_MAX),
    not_after_ms=times,
    fee=st.integers(0, AMOUNT_MAX),
    action=actions,
    signature=signatures,
)
vouchers = st.builds(Voucher, lock_id=hashes, cumulative=amounts, signature=signatures)
records = st.builds(
    Genesis,
    name=st.from_regex(r"[!-~]([ -~]{0,62}[!-~])?", fullmatch=True),
    created_ms=times,
    witnesses=st.lists(accounts, min_size=1, max_size=8, unique=True).map(tuple),
    limits=st.lists(st.tuples(accounts, amounts), max_size=8, unique_by=lambda pair: pair[0]).map(tuple),
    slot_timeout_ms=st.integers(1, SLOT_TIMEOUT_MS_MAX),
    fee_min=st.integers(0, AMOUNT_MAX),
    dispute_fee=st.integers(0, AMOUNT_MAX),
    governors=account_lists(16).map(tuple),
    governors_needed=st.just(1),
)


@st.composite
def headers(draw: st.DrawFn, count: int | None = None) -> Header:
    height = draw(st.integers(1, 2**40))
    parent_slot = draw(st.integers(height - 1, 2**41)) if height > 1 else 0
    entry_count = draw(st.integers(0, 1000)) if count is None else count
    return Header(
        epoch=draw(st.integers(0, 2**32 - 1)),
        slot=parent_slot + draw(st.integers(1, 2**20)),
        height=height,
        parent_slot=parent_slot,
        parent_hash=draw(hashes.filter(any)) if height > 1 else bytes(32),
        time_ms=draw(times),
        tree_size=entry_count + draw(st.integers(0, 2**60)),
        log_root=draw(hashes),
        state_root=draw(hashes) if height % 1000 == 0 else bytes(32),
        count=entry_count,
    )


@st.composite
def certificates(draw: st.DrawFn, header: Header | None = None) -> Certificate:
    signers = draw(st.integers(1, (1 << WITNESSES_MAX) - 1))
    kind = draw(st.sampled_from((Kind.NOTAR, Kind.FINAL)))
    epoch, slot = (header.epoch, header.slot) if header else (0, 7)
    signed = tuple(bytes((i,)) * 64 for i in range(signers.bit_count()))
    return Certificate(kind, epoch, slot, draw(hashes.filter(any)), signers, signed)


@st.composite
def final_blocks(draw: st.DrawFn) -> FinalBlock:
    chosen = tuple(draw(st.lists(entries, max_size=5)))
    while chosen and isinstance(chosen[-1].action, Rotate):
        chosen = chosen[:-1]  # The last block of an epoch needs a closing of its own.
    header = draw(headers(len(chosen)))
    return FinalBlock(header, chosen, draw(certificates(header)))


@st.composite
def receipts(draw: st.DrawFn) -> Receipt:
    leaf = Leaf(draw(entries), draw(times), tuple(draw(st.lists(hashes, max_size=20))))
    header = draw(headers())
    certificate = replace(draw(certificates(header)), kind=Kind.FINAL)
    return Receipt(leaf, CertifiedHeader(header, certificate))


FORGE = Forge()
BLOCK = FORGE.block([FORGE.sign(ALICE, Transfer(BOB.account, 5)), FORGE.sign(ALICE, Expire(b"x" * 32))])
BLOCK_HASH = BLOCK.header.hash(FORGE.genesis.network_id)
SAMPLES: dict[str, tuple[Callable[[bytes], Any], Any]] = {
    "genesis": (Genesis.decode, FORGE.genesis),
    "entry": (decode_entry, BLOCK.entries[0]),
    "voucher": (decode_voucher, Voucher(b"l" * 32, 5, b"s" * 64)),
    "header": (Header.decode, BLOCK.header),
    "block": (Block.decode, BLOCK.block),
    "proposal": (Proposal.decode, sign_proposal(WITNESSES[1], FORGE.genesis.committee, BLOCK.block)),
    "vote": (
        Vote.decode,
        sign_vote(WITNESSES[0], FORGE.genesis.committee, Kind.NOTAR, slot=1, block_hash=BLOCK_HASH),
    ),
    "certificate": (Certificate.decode, BLOCK.certificate),
    "final block": (FinalBlock.decode, BLOCK),
    "receipt": (Receipt.decode, FORGE.receipt(1)),
}


@given(entries)
@STEADY
def test_entries(entry: Entry) -> None:
    assert decode_entry(entry.encode()) == entry


@given(vouchers)
@STEADY
def test_vouchers(voucher: Voucher) -> None:
    assert decode_voucher(voucher.encode()) == voucher


@given(records)
@STEADY
def test_genesis(record: Genesis) -> None:
    assert Genesis.decode(record.encode()) == record


@given(headers())
@STEADY
def test_headers(header: Header) -> None:
    assert Header.decode(header.encode()) == header


@given(certificates())
@STEADY
def test_certificates(certificate: Certificate) -> None:
    assert Certificate.decode(certificate.encode()) == certificate


@given(final_blocks(), signatures)
@STEADY
def test_blocks(block: FinalBlock, signature: bytes) -> None:
    assert FinalBlock.decode(block.encode()) == block
    assert Block.decode(block.block.encode()) == block.block
    proposal = Proposal(block.header, block.entries, signature)
    assert Proposal.decode(proposal.encode()) == proposal


@given(receipts())
@STEADY
def test_receipts(receipt: Receipt) -> None:
    assert Receipt.decode(receipt.encode()) == receipt


def decode_or_refuse(name: str, data: bytes) -> None:
    """Any bytes: a value that encodes to the very same bytes, or a WireError; never anything else."""
    decode, _ = SAMPLES[name]
    try:
        value = decode(data)
    except WireError:
        return
    assert value.encode() == data


@pytest.mark.parametrize("name", SAMPLES)
@given(data=st.binary(max_size=400))
@STEADY
def test_garbage(name: str, data: bytes) -> None:
    decode_or_refuse(name, data)


@pytest.mark.parametrize("name", SAMPLES)
@given(data=st.data())
@STEADY
def test_almost_right(name: str, data: st.DataObject) -> None:
    """Garbage that starts from the real thing gets further into a decoder than noise does."""
    encoded = bytearray(SAMPLES[name][1].encode())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(encoded) - 1))
        encoded[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(encoded)))
    decode_or_refuse(name, bytes(encoded))
    decode_or_refuse(name, bytes(encoded[:cut]))


@pytest.mark.parametrize("name", SAMPLES)
def test_every_single_byte_change_decodes_to_itself_or_not_at_all(name: str) -> None:
    decode, sample = SAMPLES[name]
    encoded = sample.encode()
    assert decode(encoded) == sample
    for place in range(len(encoded)):
        for flip in (1, 0x80, 0xFF):
            mutated = bytearray(encoded)
            mutated[place] ^= flip
            decode_or_refuse(name, bytes(mutated))
