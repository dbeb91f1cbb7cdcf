"""One unit of work as bytes that two machines agree on (SPEC.md §13.1)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final

from executor.core.limits import LIMITS_BYTES, OUTPUT_BYTES_MAX, Limits
from executor.core.wire import DOMAIN, Reader, WireError, sized

__all__ = [
    "ARGS_BYTES_MAX",
    "ARGS_MAX",
    "COMMAND_ENTRY",
    "ENTRY_BYTES_MAX",
    "STDIN_BYTES_MAX",
    "TASK_BYTES_MAX",
    "WasmTask",
]

COMMAND_ENTRY: Final = "_start"
"""The entry of a WASI command; any other entry names an exported function."""
ENTRY_BYTES_MAX: Final = 256
ARGS_MAX: Final = 256
ARGS_BYTES_MAX: Final = 64 << 10
STDIN_BYTES_MAX: Final = OUTPUT_BYTES_MAX
_VERSION: Final = 1
_KIND_WASM: Final = 1
_HASH_BYTES: Final = 32
TASK_BYTES_MAX: Final = 2 + 32 + LIMITS_BYTES + 2 + ENTRY_BYTES_MAX + 2 + ARGS_BYTES_MAX + 4 + STDIN_BYTES_MAX


@dataclass(frozen=True, slots=True)
class WasmTask:
    """Run `entry` of the module with this SHA-256; `WireError` when a field is over its limit.

    For `_start` the module is a WASI preview 1 command: `args` follow the program name "task", `stdin` is its input.
    For any other entry `args` are numbers in text form, one per parameter, and `stdin` is empty.
    """

    module_sha256: bytes
    entry: str = COMMAND_ENTRY
    args: tuple[str, ...] = ()
    stdin: bytes = b""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if len(self.module_sha256) != _HASH_BYTES:
            raise WireError(f"a module hash has {_HASH_BYTES} bytes, not {len(self.module_sha256)}")
        if not 1 <= len(_utf8(self.entry, "entry")) <= ENTRY_BYTES_MAX:
            raise WireError(f"an entry name has 1 to {ENTRY_BYTES_MAX} bytes")
        if len(self.args) > ARGS_MAX:
            raise WireError(f"{len(self.args)} arguments, at most {ARGS_MAX} allowed")
        size = sum(4 + len(_utf8(arg, "argument")) for arg in self.args)
        if size > ARGS_BYTES_MAX:
            raise WireError(f"arguments of {size} bytes, at most {ARGS_BYTES_MAX} allowed")
        if len(self.stdin) > STDIN_BYTES_MAX:
            raise WireError(f"stdin of {len(self.stdin)} bytes, at most {STDIN_BYTES_MAX} allowed")
        if self.stdin and self.entry != COMMAND_ENTRY:
            raise WireError("an exported function has no stdin")

    def encode(self) -> bytes:
        """The canonical bytes."""
        return b"".join(
            (
                bytes((_VERSION, _KIND_WASM)),
                self.module_sha256,
                self.limits.encode(),
                sized(self.entry.encode(), 2),
                len(self.args).to_bytes(2, "big"),
                *(sized(arg.encode(), 4) for arg in self.args),
                sized(self.stdin, 4),
            )
        )

    @staticmethod
    def decode(data: bytes) -> WasmTask:
        """The task in `data`; anything but canonical bytes is a `WireError`."""
        reader = Reader(data, "task")
        version, kind = reader.take(2)
        if (version, kind) != (_VERSION, _KIND_WASM):
            raise WireError(f"task: version {version}, kind {kind}; known is version 1, kind 1 (wasm)")
        module_sha256 = reader.take(_HASH_BYTES)
        limits = Limits.read(reader)
        entry = reader.text(2, ENTRY_BYTES_MAX)
        count = reader.uint(2)
        if count > ARGS_MAX:
            raise WireError(f"task: {count} arguments, at most {ARGS_MAX} allowed")
        args = tuple(reader.text(4, ARGS_BYTES_MAX) for _ in range(count))
        stdin = reader.blob(4, STDIN_BYTES_MAX)
        reader.end()
        return WasmTask(module_sha256, entry, args, stdin, limits)

    def digest(self) -> bytes:
        """SHA-256 of the canonical bytes, domain-separated: the identity of this unit of work."""
        return hashlib.sha256(DOMAIN + b"task\0" + self.encode()).digest()


def _utf8(text: str, what: str) -> bytes:
    if "\0" in text:
        raise WireError(f"{what} holds a NUL byte")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise WireError(f"{what} is not valid Unicode text") from error
