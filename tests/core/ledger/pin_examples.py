"""Write the computed example bytes where they are pinned: `python -m tests.core.ledger.pin_examples`.

The vector file gets all of them. SPEC.md gets those whose length is as before, in the line breaks and with the remarks
that stand there; the names of the others are printed, to be written by hand.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.core.ledger.example_network import examples

ROOT = Path(__file__).parents[3]
VECTORS = ROOT / "tests" / "vectors" / "millrace" / "ledger.json"
SPECIFICATION = ROOT / "SPEC.md"


def shown(text: str) -> list[int]:
    """The places of `text` that are neither white space nor a remark (from a semicolon to the end of its line)."""
    places, at, remark = [], 0, False
    for at, character in enumerate(text):
        remark = (remark or character == ";") and character != "\n"
        if not remark and not character.isspace():
            places.append(at)
    return places


def main() -> None:
    """Pin everything."""
    before: dict[str, str] = json.loads(VECTORS.read_text())
    now = examples()
    text = list(SPECIFICATION.read_text())
    places = shown("".join(text))
    for name in sorted(now, key=lambda name: -len(now[name])):
        old, new = before.get(name, ""), now[name]
        compact = "".join(text[place] for place in places)
        start = compact.find(old) if old and old != new and len(old) == len(new) else -1
        if start < 0 and new not in compact:
            print(f"to be written into SPEC.md by hand: {name}")
        while start >= 0:
            for place, character in zip(places[start:], new, strict=False):
                text[place] = character
            start = compact.find(old, start + len(old))
    SPECIFICATION.write_text("".join(text))
    VECTORS.write_text(json.dumps(now, indent=1) + "\n")


if __name__ == "__main__":
    main()
