"""Readers, signing bytes and the msgpack envelope (SPEC.md §1, §2)."""

import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.core.encoding import (
    UNPACK_DEPTH_MAX,
    UNPACK_ITEMS_MAX,
    Kind,
    NetworkId,
    Reader,
    WireError,
    digest,
    pack,
    signing_bytes,
    unpack,
)

NETWORK = NetworkId(bytes(range(32)))


def test_signing_bytes_name_domain_kind_network_and_body() -> None:
    for kind in Kind:
        assert signing_bytes(kind, NETWORK, b"body") == b"millrace/1\0" + bytes((kind,)) + NETWORK + b"body"
    with pytest.raises(ValueError, match="32 bytes"):
        signing_bytes(Kind.ENTRY, NetworkId(b"short"), b"")


def test_digest_is_over_the_parts_in_a_row() -> None:
    assert digest(b"ab", b"c") == digest(b"abc") == digest(b"", b"abc")


def test_reader() -> None:
    reader = Reader(b"\x01\x02\x03\x05hello!", "thing")
    assert (reader.uint(1), reader.uint(2), reader.text(1, 5)) == (1, 0x0203, "hello")
    assert reader.remaining == 1
    with pytest.raises(WireError, match="thing: 1 bytes too many"):
        reader.end()
    with pytest.raises(WireError, match="2 more bytes expected, 1 left"):
        reader.take(2)
    with pytest.raises(WireError):
        reader.take(-1)
    assert reader.take(1) == b"!"
    reader.end()


def test_reader_text() -> None:
    with pytest.raises(WireError, match="at most 4"):
        Reader(b"\x05hello", "thing").text(1, 4)
    with pytest.raises(WireError, match="UTF-8"):
        Reader(b"\x01\xff", "thing").text(1, 4)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_unpack_bounds() -> None:
    assert unpack(pack({"a": [1, b"x", None, True, 1.5]})) == {"a": [1, b"x", None, True, 1.5]}
    assert unpack(pack(nested(UNPACK_DEPTH_MAX - 1))) == nested(UNPACK_DEPTH_MAX - 1)
    assert unpack(pack([0] * UNPACK_ITEMS_MAX)) == [0] * UNPACK_ITEMS_MAX
    assert unpack(b"\xc4\x04abcd", bytes_max=6) == b"abcd"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x01\x02",
        b"\x92\x01",
        pack(nested(UNPACK_DEPTH_MAX)),
        b"\x91" * 3000 + b"\x01",
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        pack([0] * (UNPACK_ITEMS_MAX + 1)),
        b"\x82\xa1a\x01\xa1a\x02",
        b"\x81\x01\x02",
        b"\x81\xc4\x01a\x02",
        b"\x81\x90\x02",
        b"\xa1\xff",
        msgpack.packb(msgpack.ExtType(5, b"x")),
        msgpack.packb(msgpack.Timestamp(1)),
        msgpack.packb([{"a": msgpack.Timestamp(1)}]),
    ],
    ids=lambda data: data[:6].hex(),
)
def test_unpack_refuses(data: bytes) -> None:
    with pytest.raises(WireError):
        unpack(data)


def test_unpack_counts_before_it_builds() -> None:
    """One lease frame of nested empty maps took four seconds and 340 MB; a kilobyte of list headers 45 ms."""
    row = b"\xdd\x00\x01\x00\x00" + b"\x80" * UNPACK_ITEMS_MAX
    for bomb in (b"\x81\xa1t\xdc\x00\x3f" + row * 63, b"\xdd\x00\x01\x00\x00" * 200):
        tracemalloc.start()
        with pytest.raises(WireError, match="more than"):
            unpack(bomb)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak_bytes < 1 << 16
    rows = [[number, b"x"] for number in range(100)]
    assert unpack(pack({"rows": rows}), items_max=301) == {"rows": rows}
    with pytest.raises(WireError, match="more than 300 items"):
        unpack(pack({"rows": rows}), items_max=300)


def test_unpack_refuses_what_is_too_long() -> None:
    with pytest.raises(WireError, match="at most 6"):
        unpack(b"\xc4\x05abcde", bytes_max=6)


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_unpack_answers_any_bytes(data: bytes) -> None:
    try:
        unpack(data)
    except WireError:
        return
