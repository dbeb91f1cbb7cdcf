"""Receipts (SPEC.md §7): they verify with genesis alone, and no changed byte passes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ledger.core.encoding import Kind, WireError
from ledger.core.entries import NO_KEY, Expire, Rekey, Transfer, sign_rekey
from ledger.core.handover import follow
from ledger.core.heads import certify
from ledger.core.receipt import RECEIPT_BYTES_MAX, Leaf, Receipt, ReceiptError, ReceiptFault, receipt_for
from tests.core.ledger.epoch_forge import EpochForge
from tests.core.ledger.ledger_forge import ALICE, BOB, CAROL, WITNESSES, Forge, genesis, key

if TYPE_CHECKING:
    from ledger.core.block import Header
    from ledger.core.committee import Committee
    from ledger.core.entries import Entry
    from ledger.core.keys import SigningKey


def grown(n: int = 4) -> Forge:
    forge = Forge(genesis(n))
    for size in (1, 3, 2):
        forge.block([forge.sign(ALICE, Transfer(BOB.account, 1 + i)) for i in range(size)])
    return forge


FORGE = grown()


def fault(receipt: Receipt, network: Forge = FORGE) -> ReceiptFault:
    with pytest.raises(ReceiptError) as caught:
        receipt.verify(network.genesis)
    return caught.value.reason


@pytest.mark.parametrize("n", [1, 4, 7])
def test_every_entry_has_a_receipt(n: int) -> None:
    forge = grown(n)
    for index in range(6):
        receipt = forge.receipt(index)
        receipt.verify(forge.genesis)
        assert Receipt.decode(receipt.encode()) == receipt
        assert len(receipt.encode()) < RECEIPT_BYTES_MAX


def test_no_changed_byte_passes() -> None:
    encoded = FORGE.receipt(3).encode()
    for place in range(len(encoded)):
        for bit in (1, 128):
            mutated = bytearray(encoded)
            mutated[place] ^= bit
            with pytest.raises((WireError, ReceiptError)):
                Receipt.decode(bytes(mutated)).verify(FORGE.genesis)


def test_no_cut_or_longer_receipt_decodes() -> None:
    encoded = FORGE.receipt(3).encode()
    for broken in (*(encoded[:size] for size in range(len(encoded))), encoded + b"\0"):
        with pytest.raises(WireError):
            Receipt.decode(broken)


def test_each_proof_is_checked() -> None:
    good, other = FORGE.receipt(3), FORGE.receipt(4)
    unsigned = replace(good.entry, signature=bytes(64))
    assert fault(replace(good, leaf=replace(good.leaf, entry=unsigned))) is ReceiptFault.SIGNATURE
    assert fault(replace(good, leaf=replace(good.leaf, entry=other.entry))) is ReceiptFault.INCLUSION
    assert fault(replace(good, leaf=replace(good.leaf, index=4))) is ReceiptFault.INCLUSION
    assert fault(replace(good, leaf=replace(good.leaf, path=good.leaf.path[:-1]))) is ReceiptFault.INCLUSION
    earlier = certify(FORGE.blocks[1:2])
    assert earlier is not None
    assert fault(replace(good, head=earlier)) is ReceiptFault.INCLUSION
    head = good.head
    later = replace(good.header, time_ms=good.header.time_ms + 1)
    assert fault(replace(good, head=replace(head, header=later))) is ReceiptFault.BLOCK
    assert fault(replace(good, head=replace(head, certificate=FORGE.certify(later)))) is ReceiptFault.BLOCK
    minority = FORGE.certify(good.header, signers=WITNESSES[:2])
    assert fault(replace(good, head=replace(head, certificate=minority))) is ReceiptFault.CERTIFICATE
    strangers = replace(FORGE.certify(good.header, signers=WITNESSES[4:7]), signers=0b111)
    assert fault(replace(good, head=replace(head, certificate=strangers))) is ReceiptFault.CERTIFICATE
    with pytest.raises(WireError, match="FINAL"):
        replace(head, certificate=FORGE.certify(good.header, Kind.NOTAR))


def test_a_receipt_is_worth_nothing_on_another_network() -> None:
    other = Forge(genesis(4, name="another"))
    assert fault(FORGE.receipt(3), other) is ReceiptFault.SIGNATURE


def test_an_entry_that_is_not_in_the_log_has_no_receipt() -> None:
    good = FORGE.receipt(3)
    forged = FORGE.sign(CAROL, Expire(b"x" * 32))
    assert fault(replace(good, leaf=replace(good.leaf, entry=forged))) is ReceiptFault.INCLUSION


def test_a_notarised_block_is_proved_by_itself_with_its_descendants_or_by_a_later_one() -> None:
    forge = Forge()
    entry = forge.sign(ALICE, Transfer(BOB.account, 1))
    notarised = forge.block([entry], kind=Kind.NOTAR)
    with pytest.raises(ValueError, match="final certificate"):
        receipt_for(entry, 0, forge.log, notarised)
    final = forge.block([])
    later, own = forge.receipt(0), receipt_for(entry, 0, forge.log, notarised, final)
    assert (later.header, own.header) == (final.header, notarised.header)
    for receipt in (later, own):
        receipt.verify(forge.genesis)
        assert Receipt.decode(receipt.encode()) == receipt


def test_bounds() -> None:
    good = FORGE.receipt(3)
    longest = replace(good.leaf, path=(bytes(32),) * 64, index=(1 << 63) - 1)
    assert Receipt.decode(replace(good, leaf=longest).encode()).leaf == longest
    for change in ({"index": -1}, {"index": 1 << 63}, {"path": (b"x",)}, {"path": (bytes(32),) * 65}):
        with pytest.raises(WireError):
            replace(good.leaf, **change)
    with pytest.raises(WireError, match="none"):
        replace(good, rekeys=(good.leaf,))
    with pytest.raises(WireError, match="at most"):
        Receipt.decode(bytes(RECEIPT_BYTES_MAX + 1))


def test_its_size_does_not_grow_with_the_ledger() -> None:
    """Four witnesses and a million entries: the figure that SPEC.md names."""
    million = replace(FORGE.receipt(3).leaf, path=(bytes(32),) * 20)
    assert len(replace(FORGE.receipt(3), leaf=million).encode()) == 1_237


# Rotations: the committee of the header's epoch is proved from genesis.

NEXT = [key(n) for n in range(21, 25)]
LAST = [key(n) for n in range(31, 34)]


def rotated(*, void: int = 0) -> EpochForge:
    """An entry in each of three epochs."""
    forge = EpochForge()
    for keys in (NEXT, LAST, None):
        forge.block()
        if keys is not None:
            forge.rotate(keys, void=void)
    return forge


ROTATED = rotated()


def leaf_under(forge: EpochForge, index: int, header: Header) -> Leaf:
    entries = [entry for block in forge.blocks for entry in block.entries]
    return Leaf(entries[index], index, forge.log.inclusion_proof(index, header.tree_size))


def proved(forge: EpochForge, index: int, at: int, rekeys: tuple[int, ...] = ()) -> Receipt:
    """Leaf `index` under the forge's `at`-th head, with all the handovers before it."""
    head = forge.heads[at]
    handovers = tuple(forge.handovers[: head.header.epoch])
    known = tuple(leaf_under(forge, rekey, head.header) for rekey in rekeys)
    return Receipt(leaf_under(forge, index, head.header), head, handovers, known)


@pytest.mark.parametrize("void", [0, 2])
def test_an_entry_is_proved_in_every_later_epoch(void: int) -> None:
    forge = rotated(void=void)
    for at, head in enumerate(forge.heads):
        for index in range(head.header.tree_size):
            receipt = proved(forge, index, at)
            receipt.verify(forge.genesis)
            assert Receipt.decode(receipt.encode()) == receipt


def test_each_handover_is_checked() -> None:
    good = proved(ROTATED, 0, -1)
    first, second = good.handovers
    forged = EpochForge().rotate(LAST)
    for wrong in (
        (),
        (first,),
        (second,),
        (second, first),
        (first, first),
        (forged, second),
        (first, second, second),
    ):
        assert rotated_fault(replace(good, handovers=wrong)) is ReceiptFault.HANDOVER
    too_many = replace(proved(ROTATED, 0, 0), handovers=(first,))
    assert rotated_fault(too_many) is ReceiptFault.HANDOVER
    of_old = ROTATED.copy()
    of_old.committee, of_old.keys = ROTATED.genesis.committee, WITNESSES[:4]
    certificate = replace(of_old.certify(good.header), signers=0b111)
    assert (
        rotated_fault(replace(good, head=replace(good.head, certificate=certificate)))
        is ReceiptFault.CERTIFICATE
    )


def rotated_fault(receipt: Receipt, known: Committee | None = None) -> ReceiptFault:
    with pytest.raises(ReceiptError) as caught:
        receipt.verify(ROTATED.genesis, known)
    return caught.value.reason


def test_who_follows_the_committees_needs_no_handovers() -> None:
    good = proved(ROTATED, 0, -1)
    middle = follow(ROTATED.genesis.committee, ROTATED.handovers[:1])
    short = replace(good, handovers=())
    short.verify(ROTATED.genesis, ROTATED.committee)
    good.verify(ROTATED.genesis, ROTATED.committee)
    replace(good, handovers=good.handovers[1:]).verify(ROTATED.genesis, middle)
    assert rotated_fault(short, middle) is ReceiptFault.HANDOVER
    assert rotated_fault(short, genesis(name="another").committee) is ReceiptFault.HANDOVER
    proved(ROTATED, 0, 0).verify(ROTATED.genesis, ROTATED.committee)  # older than what is known


def test_no_changed_byte_of_a_long_receipt_passes() -> None:
    forge = rekeyed()
    encoded = proved(forge, 4, -1, (1, 3)).encode()
    for place in range(len(encoded)):
        mutated = bytearray(encoded)
        mutated[place] ^= 1 << place % 8
        with pytest.raises((WireError, ReceiptError)):
            Receipt.decode(bytes(mutated)).verify(forge.genesis)
    for broken in (*(encoded[:size] for size in range(len(encoded))), encoded + b"\0"):
        with pytest.raises(WireError):
            Receipt.decode(broken)


# REKEYs: the key that signed the entry is proved from the account's first one.

SAFE, NEW, NEWER = key(201), key(202), key(203)


def rekey(
    forge: EpochForge, new: SigningKey, signer: SigningKey, recovery: bytes = NO_KEY, seq: int = 1
) -> Entry:
    """Alice's `seq`-th REKEY. REKEYs count for themselves."""
    network_id = forge.genesis.network_id
    proof = sign_rekey(new, network_id, ALICE.account, seq, recovery)
    return forge.sign(Rekey(new.account, recovery, proof), ALICE, signer, seq=seq)


def rekeyed() -> EpochForge:
    """Leaves: 0 a payment, 1 a REKEY that names a recovery key, 2 a payment, 3 a REKEY by that key, 4 a payment."""
    forge = EpochForge()
    pay = Transfer(BOB.account, 1)
    forge.block([forge.sign(pay)])
    forge.block([rekey(forge, NEW, ALICE, SAFE.account)])
    forge.block([forge.sign(pay, ALICE, NEW)])
    forge.block([rekey(forge, NEWER, SAFE, seq=2)])
    forge.block([forge.sign(pay, ALICE, NEWER)])
    forge.rotate(NEXT)
    forge.block([])
    return forge


REKEYED = rekeyed()


def test_the_key_of_the_time_is_proved() -> None:
    for index, rekeys in ((0, ()), (1, ()), (2, (1,)), (3, (1,)), (4, (1, 3))):
        receipt = proved(REKEYED, index, -1, rekeys)
        receipt.verify(REKEYED.genesis)
        assert Receipt.decode(receipt.encode()) == receipt


@pytest.mark.parametrize(
    ("index", "rekeys", "reason"),
    [
        (2, (), ReceiptFault.SIGNATURE),
        (4, (1,), ReceiptFault.SIGNATURE),
        (4, (3,), ReceiptFault.REKEY),
        (4, (3, 1), ReceiptFault.REKEY),
        (4, (1, 1), ReceiptFault.REKEY),
        (3, (), ReceiptFault.REKEY),
        (2, (1, 3), ReceiptFault.REKEY),
        (0, (1,), ReceiptFault.REKEY),
        (1, (1,), ReceiptFault.REKEY),
    ],
)
def test_a_missing_or_misplaced_rekey_is_found(
    index: int, rekeys: tuple[int, ...], reason: ReceiptFault
) -> None:
    assert rekeyed_fault(proved(REKEYED, index, -1, rekeys)) is reason


def rekeyed_fault(receipt: Receipt, forge: EpochForge = REKEYED) -> ReceiptFault:
    with pytest.raises(ReceiptError) as caught:
        receipt.verify(forge.genesis)
    return caught.value.reason


def test_each_part_of_a_rekey_is_checked() -> None:
    good = proved(REKEYED, 4, -1, (1, 3))
    first, second = good.rekeys
    action = second.entry.action
    assert isinstance(action, Rekey)
    for wrong in (
        replace(second, path=second.path[:-1]),
        replace(second, index=2),
        replace(second, entry=replace(second.entry, account=BOB.account)),
        replace(second, entry=replace(second.entry, signature=bytes(64))),
        replace(second, entry=replace(second.entry, action=replace(action, proof=bytes(64)))),
    ):
        assert rekeyed_fault(replace(good, rekeys=(first, wrong))) is ReceiptFault.REKEY
    assert rekeyed_fault(replace(good, rekeys=(*good.rekeys, second))) is ReceiptFault.REKEY


def test_a_rekey_that_is_not_in_the_log_makes_no_key() -> None:
    """A thief of the first key signs itself a REKEY: nobody ordered it, so it proves nothing."""
    forge = REKEYED.copy()
    stolen = rekey(forge, CAROL, ALICE)
    spend = forge.sign(Transfer(BOB.account, 1), ALICE, CAROL)
    good = proved(REKEYED, 4, -1, (1, 3))
    lie = replace(good, leaf=replace(good.leaf, entry=spend), rekeys=(replace(good.rekeys[0], entry=stolen),))
    assert rekeyed_fault(lie) is ReceiptFault.REKEY


def test_a_recovery_key_shuts_the_present_key_out() -> None:
    """Once a recovery key stands, the present key signs no REKEY."""
    forge = EpochForge()
    forge.block([rekey(forge, NEW, ALICE, SAFE.account)])
    forge.block([rekey(forge, NEWER, NEW, seq=2)])
    forge.block([forge.sign(Transfer(BOB.account, 1), ALICE, NEWER)])
    assert rekeyed_fault(proved(forge, 2, -1, (0, 1)), forge) is ReceiptFault.REKEY
    assert rekeyed_fault(proved(forge, 1, -1, (0,)), forge) is ReceiptFault.SIGNATURE
