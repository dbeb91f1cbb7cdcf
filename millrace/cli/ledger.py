# ruff: noqa: PLC0415 - what only one verb needs is imported by it: the others stay quick
"""`millrace ledger`: what was settled, replayed and proved.

`verify` needs no daemon, no network and no trust in either: the receipt and the network file decide.
"""

from __future__ import annotations

import base64
import binascii
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ledger.core.amounts import format_credits
from millrace.cli.frame import Session, clean, refuse, short, table, verb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ledger.core.receipt import Receipt

__all__ = [
    "ledger_audit_verb",
    "ledger_evidence_verb",
    "ledger_head_verb",
    "ledger_receipt_verb",
    "ledger_show_verb",
    "ledger_verify_verb",
]

RECEIPT_BYTES_MAX: Final = 256 << 10
PROGRESS_S: Final = 0.1
"""How long an audit without a node goes on between two words of progress."""
_AMOUNTS: Final = frozenset(
    [
        "amount",
        "cumulative",
        "payee_amount",
        "fee",
        "fees",
        "paid",
        "refunded",
        "locked",
        "balance",
        "balances_sum",
        "limits",
    ]
)


@verb("head")
@click.option("--check", is_flag=True, help="Hold the heads of PEERs against this node's chain.")
@click.argument("peers", nargs=-1, metavar="[PEER]...")
def ledger_head_verb(session: Session, check: bool, peers: tuple[str, ...]) -> int:
    """The newest block this node has verified.

    With --check, ask each PEER, or else every witness in reach, for its newest block, with the proof that it is final.
    Exit code 1 if one of them is on another chain.
    """
    if check:
        return _check_heads(session, peers)
    if peers:
        raise click.BadParameter("a peer is asked with --check: millrace ledger head --check PEER")
    answer = session.call("ledger.head")
    totals = answer.get("totals")
    fields = {**answer, **(totals if isinstance(totals, dict) else {})}
    session.answer(answer, lambda: table(("FIELD", "VALUE"), _rows(fields)))
    return 0


def _check_heads(session: Session, peers: tuple[str, ...]) -> int:
    answer = session.call("ledger.check", peers=list(peers))
    heads = answer.get("heads", [])
    split = str(answer.get("split") or "")
    rows = [
        tuple(clean(head.get(name)) for name in ("peer", "verdict", "height", "detail")) for head in heads
    ]
    session.answer(answer, lambda: table(("PEER", "VERDICT", "HEIGHT", "DETAIL"), rows) if rows else "nobody")
    if split:
        session.say(clean(split))
    return 1 if split or any(head.get("verdict") == "split" for head in heads) else 0


@verb("evidence")
def ledger_evidence_verb(session: Session) -> int:
    """Proofs that witnesses lied: who, what and when. Exit code 1 if there are any.

    Each was verified when it came, and holds for anybody: --json prints the records.
    """
    answer = session.call("ledger.evidence")
    found = answer.get("evidence", [])
    session.answer(answer, lambda: table(_EVIDENCE_HEADINGS, map(_evidence_row, found)) if found else "none")
    if split := answer.get("split"):
        session.say(clean(split))
    return 1 if found else 0


_EVIDENCE_HEADINGS: Final = ("WHO", "WHAT", "EPOCH", "SLOT", "WHEN")
_WHAT: Final = {
    "two_blocks": "proposed two blocks in one slot",
    "notar_notar": "voted for two blocks in one slot",
    "notar_final": "voted for one block and made another final",
    "skip_final": "skipped a slot and made its block final",
    "final_final": "made two blocks of one slot final",
    "fork": "made two chains final",
}


def _evidence_row(found: dict[str, Any]) -> tuple[str, ...]:
    culprits, suspects = found.get("culprits") or [], found.get("suspects") or []
    who = ", ".join(map(short, culprits)) or f"more than f of {', '.join(map(short, suspects))}"
    what = _WHAT.get(str(found.get("what")), clean(found.get("what")))
    when = _shown(found["time_ms"], "time_ms") if found.get("time_ms") else ""
    return (who, what, clean(found.get("epoch")), clean(found.get("slot")), when)


@verb("show")
@click.argument("height", required=False, type=click.IntRange(min=0))
@click.option("--count", type=click.IntRange(1, 100), default=10, show_default=True, help="How many blocks.")
def ledger_show_verb(session: Session, height: int | None, count: int) -> int:
    """Blocks and their entries, from HEIGHT on; without it, the newest."""
    answer = session.call("ledger.show", **({} if height is None else {"from": height}), count=count)
    blocks = answer.get("blocks", answer.get("items", []))
    session.answer(answer, lambda: "\n".join(_block_text(block) for block in blocks) or "no blocks yet")
    return 0


@verb("audit")
@click.option(
    "--file",
    "ledger_path",
    type=click.Path(path_type=Path),
    help="Audit this ledger file, without a node; it is only read.",
)
@click.option(
    "--network",
    "network_path",
    default="",
    metavar="FILE",
    help="With --file: the network file (default: the joined one).",
)
@click.option("--cores", type=click.IntRange(1, 64), help="With --file: how many cores (default: all).")
def ledger_audit_verb(
    session: Session, ledger_path: Path | None, network_path: str, cores: int | None
) -> int:
    """Replay the whole ledger from genesis: every signature, every rule, every certificate, the sum of all.

    The audit shares no state with the witnesses, and uses all cores. Exit code 1 if anything does not add up.
    """
    if ledger_path is None and (network_path or cores):
        raise click.UsageError("--network and --cores go with --file; the node audits its own ledger")
    with _bar(session) as step:

        def tell(event: dict[str, Any]) -> None:
            if session.json:
                session.event({"event": "progress", **event})
            step(event)

        if ledger_path is None:
            with session.endpoint.stream("ledger.audit", wait_s=session.timeout_s) as stream:
                for event in stream:
                    tell(event)
                report = stream.result if isinstance(stream.result, dict) else {}
        else:
            network = Path(network_path).expanduser() if network_path else session.paths.network
            report = _audit_file(ledger_path.expanduser(), network, cores, tell)
    good = bool(report.get("ok", True))
    session.answer(
        {"event": "report", **report}, lambda: table(("AUDIT", "good" if good else "FAILED"), _rows(report))
    )
    _say_the_rest(session, report)
    return 0 if good else 1


def _audit_file(
    path: Path, network: Path, cores: int | None, tell: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    from bootstrap.genesis import load_network
    from ledger.auditing import audit_file, report_fields
    from ledger.database import StoreError

    told_s = 0.0

    def progress(done: int, total: int, entries: int, used: int) -> None:
        nonlocal told_s
        if done == total or time.monotonic() - told_s >= PROGRESS_S:
            told_s = time.monotonic()
            tell({"event": "progress", "done": done, "total": total, "entries": entries, "cores": used})

    genesis = load_network(network).genesis
    try:
        return report_fields(audit_file(path, genesis, progress, cores=cores))
    except StoreError as error:
        refuse(f"{path} was not audited", str(error), f"ls -l {path}")


def _say_the_rest(session: Session, report: dict[str, Any]) -> None:
    """What the table does not say: where a rule is broken, and what was taken on trust."""
    violation = report.get("violation")
    if isinstance(violation, dict):
        entry = "" if violation.get("entry") is None else f", entry {violation.get('entry')}"
        session.say(
            f"block {violation.get('height')}{entry} breaks {violation.get('rule')}: {violation.get('detail')}"
        )
    if base := report.get("base_height"):
        trust = "" if report.get("base_proven") else ", by witnesses that this file does not prove"
        session.say(
            f"begun at the snapshot of block {base}, certified{trust}: the entries before it are not here"
        )


@verb("receipt")
@click.argument("entry", required=False)
@click.option("-o", "--output", default="", metavar="FILE", help="Write the receipt's bytes to FILE.")
def ledger_receipt_verb(session: Session, entry: str | None, output: str) -> int:
    """The receipt of ENTRY (64 hex digits), or the list of this node's receipts."""
    if entry is None:
        answer = session.call("ledger.receipts")
        items = answer.get("receipts", answer.get("items", []))
        rows = [[_shown(value, name) for name, value in item.items()] for item in items]
        headings = [name.upper() for name in items[0]] if items else ["RECEIPTS"]
        session.answer(answer, lambda: table(headings, rows) if rows else "no receipts yet")
        return 0
    if len(entry) != 64 or not set(entry.lower()) <= set("0123456789abcdef"):
        raise click.BadParameter("an entry's id is 64 hex digits: millrace ledger receipt lists yours")
    answer = session.call("ledger.receipt", entry=entry.lower())
    data = answer.get("receipt", b"")
    if output:
        Path(output).expanduser().write_bytes(data)
        session.say(f"wrote {len(data)} bytes; anybody can check it: millrace ledger verify {output}")
    document = {**answer, "receipt": base64.b64encode(data).decode(), **({"file": output} if output else {})}
    session.answer(document, lambda: output or base64.b64encode(data).decode())
    return 0


@verb("verify")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--network",
    "network_path",
    default="",
    metavar="FILE",
    help="The network file (default: the joined one).",
)
def ledger_verify_verb(session: Session, file: Path, network_path: str) -> int:
    """Check the receipt in FILE offline. Exit code 0: it proves that its entry is settled."""
    from bootstrap.genesis import load_network
    from ledger.core.encoding import WireError
    from ledger.core.receipt import Receipt, ReceiptError

    network = load_network(Path(network_path).expanduser() if network_path else session.paths.network)
    data = _receipt_bytes(file.expanduser())
    try:
        receipt = Receipt.decode(data)
        receipt.verify(network.genesis)
    except (WireError, ReceiptError) as error:
        refuse(
            f"{file} proves nothing on {network.name!r}",
            str(error),
            "ask whoever gave it for the receipt again: millrace ledger receipt ENTRY -o FILE",
        )
    document = {
        "valid": True,
        "network": network.name,
        "network_id": network.network_id.hex(),
        **_describe(receipt),
    }
    text = f"✓ settled on {network.name}\n" + table(("FIELD", "VALUE"), _rows(_describe(receipt)))
    session.answer(document, text)
    return 0


def _receipt_bytes(path: Path) -> bytes:
    """A receipt's bytes: the file as it is, or base64 text in it."""
    try:
        with path.open("rb") as file:
            data = file.read(RECEIPT_BYTES_MAX * 2)
    except OSError as error:
        refuse(f"cannot read {path}", error.strerror or "the system refused", f"ls -l {path}")
    try:
        return base64.b64decode(data.strip(), validate=True)
    except (binascii.Error, ValueError):
        return data


def _describe(receipt: Receipt) -> dict[str, Any]:
    from ledger.core.keys import peer_id

    entry, header = receipt.entry, receipt.header
    fields: dict[str, Any] = {"type": type(entry.action).__name__.upper(), "account": peer_id(entry.account)}
    for name in ("to", "payee"):
        if account := getattr(entry.action, name, None):
            fields[name] = peer_id(account)
    for name in ("amount", "cumulative"):
        value = getattr(entry.action, name, None)
        if isinstance(value, int):
            fields[name] = value
    if lock_id := getattr(entry.action, "lock_id", None):
        fields["lock_id"] = lock_id.hex()
    return {
        **fields,
        "seq": entry.seq,
        "height": header.height,
        "time_ms": header.time_ms,
        "index": receipt.index,
    }


def _block_text(block: dict[str, Any]) -> str:
    """A block as people read it: when, by whom, and one line for each entry."""
    when = _shown(block.get("time_ms"), "time_ms")
    head = f"block {block.get('height')}  {when}  led by {short(block.get('leader'))}"
    entries = [entry for entry in block.get("entries", []) if isinstance(entry, dict)]
    return "\n".join((head, *(f"  {_entry_text(entry)}" for entry in entries)))


def _entry_text(entry: dict[str, Any]) -> str:
    """One entry: number, kind, who to whom, how much, what else it says, and the id that `ledger receipt` takes."""
    parts = [f"#{entry.get('index')}", str(entry.get("type", "")).ljust(8), short(entry.get("account"))]
    if other := next((entry[name] for name in _OTHERS if entry.get(name)), None):
        parts.append(f"→ {short(other)}")
    parts += [_shown(entry[name], name) for name in ("amount", "cumulative", "payee_amount") if name in entry]
    parts += [text for name, text in _facts(entry) if entry.get(name) is not None]
    return clean("  ".join((*parts, str(entry.get("id", "")))))


_OTHERS: Final = ("to", "payee", "beneficiary", "new_key")


def _facts(entry: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What the rarer kinds of entry say, each in a few words."""
    yield "lock_id", f"lock {str(entry.get('lock_id'))[:16]}"
    yield "expiry_ms", f"until {_shown(entry.get('expiry_ms'), 'time_ms')}"
    yield "arbiters_needed", f"{entry.get('arbiters_needed')} arbiters may decide"
    yield "arbiters", f"by {_count(entry, 'approved_by')} of {_count(entry, 'arbiters')} arbiters"
    delta = entry.get("delta")
    yield "delta", f"line {'+' if isinstance(delta, int) and delta > 0 else ''}{_shown(delta, 'amount')}"
    yield "recovery", f"recovered by {short(entry.get('recovery'))}"
    yield "witnesses", f"{_count(entry, 'witnesses')} witnesses"
    yield "version", f"version {entry.get('version')}"
    yield (
        "fee_min",
        f"fees {_shown(entry.get('fee_min'), 'fee')}, {_shown(entry.get('dispute_fee'), 'fee')} to dispute",
    )
    yield "slot_timeout_ms", f"slots of {entry.get('slot_timeout_ms')} ms"
    yield "from_height", f"from block {entry.get('from_height')}"
    yield "decree", f"decree {entry.get('decree')} by {entry.get('approvals')} governors"


def _count(entry: dict[str, Any], name: str) -> int:
    listed = entry.get(name)
    return len(listed) if isinstance(listed, list) else 0


def _rows(fields: dict[str, Any]) -> list[tuple[str, str]]:
    """Single facts for a table; lists and tables among them are for --json."""
    return [(n, _shown(v, n)) for n, v in fields.items() if v is not None and not isinstance(v, (dict, list))]


def _shown(value: object, name: str = "") -> str:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and name in _AMOUNTS:
        return format_credits(value)
    if isinstance(value, int) and name == "time_ms":
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(value / 1000))
    return clean(value)


class _bar:  # noqa: N801 - used as a context manager function
    """A progress bar for a stream of {"done", "total", "entries", "cores"} events, when somebody watches."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._progress: Any = None

    def __enter__(self) -> Callable[[dict[str, Any]], None]:
        if not self._session.lively:
            return lambda _event: None
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        bar = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        self._progress = Progress(*bar, console=Console(stderr=True), transient=True)
        self._progress.start()
        task = self._progress.add_task("replaying", total=None)
        begun_s = time.monotonic()

        def step(event: dict[str, Any]) -> None:
            self._progress.update(
                task,
                description=_pace(event, time.monotonic() - begun_s),
                completed=event.get("done", event.get("height", 0)),
                total=event.get("total") or None,
            )

        return step

    def __exit__(self, *error: object) -> None:
        if self._progress is not None:
            self._progress.stop()


def _pace(event: dict[str, Any], elapsed_s: float) -> str:
    """How far, how fast, and with how much of the machine."""
    entries, cores = event.get("entries"), event.get("cores")
    if not isinstance(entries, int):
        return "replaying"
    pace = f"{entries:,} entries  {entries / max(elapsed_s, 0.001):,.0f}/s"
    return f"{pace}  {cores} core{'' if cores == 1 else 's'}" if isinstance(cores, int) else pace
