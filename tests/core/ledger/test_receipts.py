"""Receipts (SPEC.md §7): they verify with genesis alone, and no changed byte passes."""

from dataclasses import replace

import pytest

from ledger.core.encoding import Kind, WireError
from ledger.core.entries import Expire, Transfer
from ledger.core.receipt import RECEIPT_BYTES_MAX, Receipt, ReceiptError, ReceiptFault, receipt_for
from tests.core.ledger.ledger_forge import ALICE, BOB, CAROL, WITNESSES, Forge, genesis


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
    assert fault(replace(good, entry=replace(good.entry, signature=bytes(64)))) is ReceiptFault.SIGNATURE
    assert fault(replace(good, entry=other.entry)) is ReceiptFault.INCLUSION
    assert fault(replace(good, index=4)) is ReceiptFault.INCLUSION
    assert fault(replace(good, path=good.path[:-1])) is ReceiptFault.INCLUSION
    assert fault(replace(good, header=FORGE.blocks[1].header)) is ReceiptFault.INCLUSION
    later = replace(good.header, time_ms=good.header.time_ms + 1)
    assert fault(replace(good, header=later)) is ReceiptFault.BLOCK
    assert fault(replace(good, certificate=FORGE.certify(later))) is ReceiptFault.BLOCK
    notarised = FORGE.certify(good.header, Kind.NOTAR)
    assert fault(replace(good, certificate=notarised)) is ReceiptFault.BLOCK
    minority = FORGE.certify(good.header, signers=WITNESSES[:2])
    assert fault(replace(good, certificate=minority)) is ReceiptFault.CERTIFICATE
    strangers = replace(FORGE.certify(good.header, signers=WITNESSES[4:7]), signers=0b111)
    assert fault(replace(good, certificate=strangers)) is ReceiptFault.CERTIFICATE


def test_a_receipt_is_worth_nothing_on_another_network() -> None:
    other = Forge(genesis(4, name="another"))
    assert fault(FORGE.receipt(3), other) is ReceiptFault.SIGNATURE


def test_an_entry_that_is_not_in_the_log_has_no_receipt() -> None:
    good = FORGE.receipt(3)
    forged = FORGE.sign(CAROL, Expire(b"x" * 32))
    assert fault(replace(good, entry=forged)) is ReceiptFault.INCLUSION


def test_a_later_final_block_covers_an_entry_below_a_notarised_one() -> None:
    forge = Forge()
    entry = forge.sign(ALICE, Transfer(BOB.account, 1))
    notarised = forge.block([entry], kind=Kind.NOTAR)
    with pytest.raises(ValueError, match="final certificate"):
        receipt_for(entry, 0, forge.log, notarised)
    forge.block([])
    forge.receipt(0).verify(forge.genesis)


def test_bounds() -> None:
    assert RECEIPT_BYTES_MAX == 3204 + 8 + 1 + 64 * 32 + 145 + (53 + 64 * 64)
    good = FORGE.receipt(3)
    longest = replace(good, path=(bytes(32),) * 64, index=(1 << 63) - 1)
    assert Receipt.decode(longest.encode()) == longest
    for change in ({"index": -1}, {"index": 1 << 63}, {"path": (b"x",)}, {"path": (bytes(32),) * 65}):
        with pytest.raises(WireError):
            replace(good, **change)
