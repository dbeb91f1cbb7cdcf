"""The name of what executes wasm units (SPEC.md §13.3).

Workers whose runtimes have the same name give the same bytes and the same fuel for the same task.
"""

from __future__ import annotations

import hashlib
from typing import Final

__all__ = ["RUNTIME", "WASMTIME_MAJOR", "cache_key"]

WASMTIME_MAJOR: Final = 50
RUNTIME: Final = f"wasm/wasmtime-{WASMTIME_MAJOR}/1"
"""Kind, engine, and the revision of this project's WASI and of the engine's settings."""


def cache_key(wasmtime_version: str, machine: str) -> str:
    """16 hex digits that change whenever a compiled form made elsewhere or before must not be loaded."""
    text = f"{RUNTIME}\n{wasmtime_version}\n{machine}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]
