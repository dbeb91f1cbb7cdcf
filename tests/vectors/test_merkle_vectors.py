"""RFC 6962 proofs (SPEC.md §5) against public probes, most of them forged."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from ledger.core.merkle import verify_consistency, verify_inclusion

PROBES = json.loads((Path(__file__).parent / "rfc6962" / "merkle.json").read_text())
# Valid by the source's account, but with roots of 12 bytes: a node has 32 here.
PLACEHOLDER_ROOTS = {"consistency/additional/sizes-are-equal-one-and-proof-is-empty"}


def decode(text: str | None) -> bytes:
    return base64.b64decode(text or "")


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe["name"])
def test_probe(probe: dict[str, Any]) -> None:
    path = [decode(node) for node in probe["proof"] or ()]
    if "leafIdx" in probe:
        index, size = int(probe["leafIdx"]), int(probe["treeSize"])
        held = verify_inclusion(index, size, decode(probe["leafHash"]), path, decode(probe["root"]))
    else:
        sizes = int(probe["size1"]), int(probe["size2"])
        held = verify_consistency(*sizes, path, decode(probe["root1"]), decode(probe["root2"]))
    assert held is (not probe["wantErr"] and probe["name"] not in PLACEHOLDER_ROOTS)


def test_the_set_is_whole() -> None:
    assert len(PROBES) == 196
    assert {probe["name"] for probe in PROBES} >= PLACEHOLDER_ROOTS
