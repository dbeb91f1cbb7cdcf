"""Sizes that keep a module readable in one sitting; a longer one is argued for here, by name."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FUNCTION_LINES_MAX = 72
MODULE_LINES_MAX = 440
VAGUE = {"utils", "util", "common", "helpers", "helper", "manager", "base", "misc"}

MODULES = [
    path
    for package in ("p2p", "ledger", "executor", "bootstrap", "millrace")
    for path in sorted((ROOT / package).rglob("*.py"))
]
LONGER_MODULES: dict[str, str] = {}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_module(path: Path) -> None:
    text = path.read_text()
    place = path.relative_to(ROOT).as_posix()
    assert path.stem not in VAGUE, "a module is named after the one idea it holds"
    assert text.count("\n") <= MODULE_LINES_MAX or place in LONGER_MODULES
    tree = ast.parse(text)
    assert not text or ast.get_docstring(tree), "the first line says what the module is"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= FUNCTION_LINES_MAX, f"{node.name} has {lines} lines"
    if path.name != "__init__.py" and not path.stem.startswith("_") and path.stem != "__main__":
        names = {
            t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)
        }
        assert "__all__" in names, "a public module says what is public"
