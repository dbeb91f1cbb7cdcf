"""What the documents name exists: files, folders, links, and the sections of SPEC.md that code cites."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

import click
import pytest

from millrace.cli.main import root

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
ROOMS = ("p2p", "ledger", "executor", "bootstrap", "millrace")
SECTION = re.compile(r"SPEC\.md §(\d+(?:\.\d+)?)")
RULE = re.compile(r"\b(R\d{1,2}\.\d{1,2})\b")


def named_files(text: str) -> set[str]:
    """Paths in backticks: those that end like a source file, or like a folder."""
    return {
        path
        for path in re.findall(r"`([a-z0-9_./-]+)`", text)
        if path.endswith((".py", ".md")) or path[-1] == "/"
    }


def stands(path: str) -> bool:
    """Whether `path` is there, from the root or (as ARCHITECTURE.md shortens it) from inside a room or its core."""
    rooms = [ROOT / room for room in ROOMS]
    return any((base / path).exists() for base in (ROOT, *rooms, *(room / "core" for room in rooms)))


def test_architecture_names_what_is_there() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    missing = {path for path in named_files(text) if not stands(path)}
    assert missing <= {"x/core"}


def test_architecture_names_every_module_with_state_or_an_owner() -> None:
    """A module that a newcomer would look for is named; leaves may be left to the tree."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    shells = [
        path
        for room in ROOMS
        for path in (ROOT / room).glob("*.py")
        if path.name != "__init__.py" and "async def " in path.read_text()
    ]
    unnamed = sorted(path.relative_to(ROOT).as_posix() for path in shells if f"{path.name}`" not in text)
    assert not unnamed, "say in ARCHITECTURE.md what these are for"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text()
    headings = {
        re.sub(r"[^a-z0-9 _-]", "", heading.lower()).strip().replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings, f"{document.name} has no heading for {target}"
        elif "://" not in target:
            assert (document.parent / target.partition("#")[0]).exists(), f"{document.name} links to {target}"


def test_cited_sections_and_rules_exist() -> None:
    text = (ROOT / "SPEC.md").read_text()
    sections = set(re.findall(r"^##+ (\d+(?:\.\d+)?)\.? ", text, re.MULTILINE))
    rules = re.findall(r"^- \*\*(R\d+\.\d+)\b", text, re.MULTILINE)
    assert len([section for section in sections if "." not in section]) == 18
    assert len(rules) == len(set(rules))
    parts = sorted(sections, key=lambda section: [int(number) for number in section.split(".")])
    assert re.findall(r"^##+ (\d+(?:\.\d+)?)\.? ", text, re.MULTILINE) == parts, "in order"
    assert set(RULE.findall(text)) <= set(rules)
    assert set(re.findall(r"§(\d+(?:\.\d+)?)", text)) <= sections
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            source, where = path.read_text(), path.relative_to(ROOT)
            assert set(SECTION.findall(source)) <= sections, f"{where} cites {SECTION.findall(source)}"
            assert set(RULE.findall(source)) <= set(rules), f"{where} cites {RULE.findall(source)}"


def shown(text: str) -> list[list[str]]:
    """The `millrace …` commands of a document, in blocks and in backticks, as words."""
    lines = re.sub(r"\\\n\s*", " ", text)
    found = re.findall(r"^(?:`)?millrace ([^`#\n]+)|`millrace ([^`#\n]+)`", lines, re.MULTILINE)
    return [re.sub(r"\[[^]]*\]", "", block or inline).split() for block, inline in found]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_that_are_shown_exist(document: Path) -> None:
    text = document.read_text()
    for line in shown(text):
        words, command = line, cast("click.Command", root)
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            if re.fullmatch(r"…|\W+", words[0]):
                break
            inner = command.get_command(click.Context(command), words[0])
            if inner is None and command.invoke_without_command:
                break
            assert inner is not None, f"{document.name}: no such verb: {words}"
            command, words = inner, words[1:]
        options = {name for parameter in command.params for name in (*parameter.opts, "--help", "--json")}
        unknown = {word for word in words if word.startswith("-")} - options
        assert not unknown, f"{document.name}: {command.name} has no {unknown}"
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)) <= targets
