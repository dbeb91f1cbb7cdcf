"""The house's walls: who may import what, each rule with its reason (ARCHITECTURE.md, "Import rules")."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("p2p", "ledger", "executor", "bootstrap", "millrace")


class Rule(NamedTuple):
    """Modules below `room` must not import `banned`, but for the files in `doors`."""

    room: str
    banned: frozenset[str]
    doors: frozenset[str]
    reason: str


def rule(room: str, banned: str, reason: str, doors: str = "") -> Rule:
    return Rule(room, frozenset(banned.split()), frozenset(doors.split()), reason)


EFFECTS = "trio libp2p multiaddr zeroconf sqlite3 subprocess socket selectors threading asyncio tempfile ssl"

RULES = [
    rule(
        "ledger",
        "p2p executor bootstrap millrace",
        "who holds what must be provable without a network or a sandbox",
    ),
    rule(
        "executor",
        "p2p ledger bootstrap millrace",
        "the room that runs strangers' work can reach neither keys nor money",
    ),
    rule(
        "p2p", "executor bootstrap millrace", "the network carries bytes; it does not know what they are for"
    ),
    rule("bootstrap", "executor millrace", "an entry point runs nobody's tasks"),
    *(
        rule(
            f"{room}/core",
            EFFECTS,
            "core decides, shells do: values in, values out, so that it can be simulated",
        )
        for room in ("p2p", "ledger", "executor", "millrace")
    ),
    rule(
        "p2p",
        "libp2p multiaddr",
        "libp2p stands behind the host: what it lacks is mended there, and it can be replaced there",
        doors="p2p/host.py p2p/hardening.py p2p/links.py p2p/muxer.py p2p/outgoing.py p2p/pubsub.py p2p/routing.py "
        "p2p/transport.py",
    ),
    rule(
        "p2p",
        "zeroconf",
        "mDNS answers on a thread of its own: one module brings it home",
        doors="p2p/lan.py",
    ),
    *(
        rule(room, "libp2p multiaddr zeroconf", "the network is p2p's")
        for room in ("ledger", "executor", "bootstrap", "millrace")
    ),
    *(
        rule(room, "sqlite3", "a database has one owner, which numbers its writes", doors)
        for room, doors in {
            "p2p": "",
            "ledger": "ledger/database.py",
            "executor": "",
            "bootstrap": "",
            "millrace": "millrace/journal.py",
        }.items()
    ),
    *(
        rule(room, "subprocess", "a process is started where its limits are set", doors)
        for room, doors in {
            "p2p": "",
            "ledger": "ledger/signatures.py",  # an audit verifies signatures on every core
            "executor": "executor/sandbox.py",
            "bootstrap": "",
        }.items()
    ),
    rule(
        "executor",
        "ctypes",
        "raw system calls and raw memory belong into the child that is about to be shut in",
        doors="executor/child_lockdown.py executor/wasm.py",
    ),
    *(
        rule(room, "ctypes", "no raw memory outside the sandbox's child")
        for room in ("p2p", "ledger", "bootstrap")
    ),
    rule(
        "millrace/cli",
        "trio p2p.host p2p.mesh executor.runner",
        "a command answers at once: libp2p takes seconds to import",
    ),
]


def imports(path: Path) -> set[str]:
    """Dotted names of every module that `path` imports, with `from a import b` as both a and a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def is_below(name: str, banned: str) -> bool:
    return name == banned or name.startswith(banned + ".")


def breaches(of: Rule) -> list[str]:
    found = []
    for path in sorted((ROOT / of.room).rglob("*.py")):
        place = path.relative_to(ROOT).as_posix()
        if place in of.doors:
            continue
        found += [
            f"{place} imports {name}"
            for name in sorted(imports(path))
            for banned in of.banned
            if is_below(name, banned)
        ]
    return found


@pytest.mark.parametrize("of", RULES, ids=lambda of: f"{of.room}-without-{'-'.join(sorted(of.banned))[:40]}")
def test_rule_holds(of: Rule) -> None:
    assert (ROOT / of.room).is_dir(), f"{of.room} is gone: drop or rename its rule"
    assert not breaches(of), of.reason


def test_a_breach_is_found(tmp_path: Path) -> None:
    """The control: these rules can fail."""
    probe = tmp_path / "probe.py"
    probe.write_text("def f():\n    from libp2p.host import x\n    import sqlite3\n")
    assert {"libp2p.host", "sqlite3"} <= imports(probe)
    assert is_below("libp2p.host", "libp2p")
    assert not is_below("libp2protocol", "libp2p")


def test_p2p_uses_only_the_ledgers_ground() -> None:
    """The network needs keys and encoding from the ledger, never its state or its rules."""
    allowed = {"ledger.core", "ledger.core.keys", "ledger.core.encoding", "ledger.core.amounts"}
    for path in (ROOT / "p2p").rglob("*.py"):
        for name in imports(path):
            if name.startswith("ledger"):
                assert any(is_below(name, room) for room in allowed - {"ledger.core"}) or name in allowed, (
                    f"{path.relative_to(ROOT)} imports {name}"
                )


CLOCKS = {
    ("time", "time"),
    ("time", "time_ns"),
    ("time", "monotonic"),
    ("os", "urandom"),
    ("secrets", "token_bytes"),
}


@pytest.mark.parametrize("room", [f"{room}/core" for room in ("p2p", "ledger", "executor", "millrace")])
def test_core_reads_no_clock_and_no_entropy(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in CLOCKS, (
                    f"{path}: {node.value.id}.{node.attr} is an argument"
                )


@pytest.mark.parametrize("module", ["millrace", "millrace.cli.main", "millrace.endpoint"])
def test_imports_without_libp2p(module: str) -> None:
    """A script or a command that talks to a running daemon must not pay for the daemon's libraries."""
    code = f"import sys, {module}; print(','.join(m for m in ('libp2p', 'trio', 'wasmtime') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("package", PACKAGES)
def test_package_is_typed_and_says_what_it_is(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
    for init in (ROOT / package).rglob("__init__.py"):
        assert ast.get_docstring(ast.parse(init.read_text())), f"{init.relative_to(ROOT)} has no docstring"
