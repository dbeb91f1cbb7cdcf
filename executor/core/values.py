"""Numbers in and out of an exported function (SPEC.md §13.4): decimal text in, canonical bytes out."""

from __future__ import annotations

import math
import re
import struct
from typing import Final

from executor.core.wire import Reader, WireError

__all__ = ["RESULTS_MAX", "ValueKind", "decode_results", "encode_results", "parse_argument"]

ValueKind = str
"""A WebAssembly number type: 'i32', 'i64', 'f32' or 'f64'."""
RESULTS_MAX: Final = 64
_CODES: Final = {"i32": 0x7F, "i64": 0x7E, "f32": 0x7D, "f64": 0x7C}
_KINDS: Final = {code: kind for kind, code in _CODES.items()}
_BITS: Final = {"i32": 32, "i64": 64}
_FLOAT_FORMAT: Final = {"f32": ">f", "f64": ">d"}
_CANONICAL_NAN: Final = {"f32": bytes.fromhex("7fc00000"), "f64": bytes.fromhex("7ff8000000000000")}
_INTEGER: Final = re.compile(r"-?[0-9]{1,20}", re.ASCII)
_FLOAT: Final = re.compile(r"-?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?(?:[eE][+-]?[0-9]{1,4})?|inf)|nan", re.ASCII)


def parse_argument(kind: ValueKind, text: str) -> int | float:
    """The number in `text` for a parameter of `kind`; `WireError` when it is not one or does not fit.

    Integers may be written signed or unsigned: '-1' and '4294967295' are the same i32.
    """
    if kind in _BITS:
        bits = _BITS[kind]
        if not _INTEGER.fullmatch(text) or not -(1 << (bits - 1)) <= int(text) < 1 << bits:
            raise WireError(f"argument {text[:40]!r} is not an {kind}")
        value = int(text)
        return value - (1 << bits) if value >= 1 << (bits - 1) else value
    if kind in _FLOAT_FORMAT:
        if not _FLOAT.fullmatch(text):
            raise WireError(f"argument {text[:40]!r} is not an {kind}")
        number = float(text)
        if kind == "f64":
            return number
        try:
            return float(struct.unpack(">f", struct.pack(">f", number))[0])
        except OverflowError:
            return math.copysign(math.inf, number)
    raise WireError(f"parameters of type {kind} cannot be passed")


def encode_results(results: list[tuple[ValueKind, int | float]]) -> bytes:
    """Canonical bytes: for each result its WebAssembly type code and its value, big-endian; every NaN is one NaN."""
    if len(results) > RESULTS_MAX:
        raise WireError(f"{len(results)} results, at most {RESULTS_MAX} allowed")
    return b"".join(_encode(kind, value) for kind, value in results)


def _encode(kind: ValueKind, value: float) -> bytes:
    if kind not in _CODES:
        raise WireError(f"results of type {kind} cannot be returned")
    code = bytes((_CODES[kind],))
    if kind in _BITS:
        return code + (int(value) % (1 << _BITS[kind])).to_bytes(_BITS[kind] // 8, "big")
    if math.isnan(value):
        return code + _CANONICAL_NAN[kind]
    return code + struct.pack(_FLOAT_FORMAT[kind], value)


def decode_results(data: bytes) -> tuple[int | float, ...]:
    """The numbers in canonical result bytes, integers signed; `WireError` for any other bytes."""
    reader = Reader(data, "results")
    values: list[int | float] = []
    left = len(data)
    while left:
        kind = _KINDS.get(reader.uint(1))
        if kind is None or len(values) == RESULTS_MAX:
            raise WireError("results: unknown type code, or too many values")
        raw = reader.take(4 if kind.endswith("32") else 8)
        left -= 1 + len(raw)
        if kind in _BITS:
            values.append(int.from_bytes(raw, "big", signed=True))
            continue
        value = struct.unpack(_FLOAT_FORMAT[kind], raw)[0]
        if math.isnan(value) and raw != _CANONICAL_NAN[kind]:
            raise WireError("results: a NaN is not in its canonical form")
        values.append(value)
    return tuple(values)
