"""The local API's messages and the shape of every method's parameters (SPEC.md §16).

A client sends one request and, for long parameters, parts behind it; the node answers with any number of
events and then exactly one `ok` or `error`. Both sides, the node and the blocking client, build and read
their messages here, so neither can drift from the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from executor.core.limits import FUEL_MAX, MEMORY_BYTES_MAX, OUTPUT_BYTES_MAX, WALL_S_MAX
from executor.core.module import MODULE_BYTES_MAX
from executor.core.task import ARGS_BYTES_MAX, ARGS_MAX, COMMAND_ENTRY, STDIN_BYTES_MAX
from ledger.core.encoding import WireError, pack, unpack
from ledger.core.entries import ENTRY_BYTES_MAX

__all__ = [
    "API_FRAME_BYTES_MAX",
    "API_VERSION",
    "JOB_OPTIONS",
    "METHODS",
    "PART_BYTES",
    "Method",
    "Param",
    "Part",
    "Reply",
    "Request",
    "check_params",
    "decode_from_client",
    "decode_reply",
    "encode_error",
    "encode_event",
    "encode_ok",
    "encode_part",
    "encode_request",
]

API_VERSION: Final = 1
API_FRAME_BYTES_MAX: Final = 4 << 20
"""The longest frame on the local socket: one unit's longest output and its wrapping fit well inside."""
PART_BYTES: Final = 1 << 20
"""How much of a module or of the units a client puts into one frame before it starts the next."""
ITEMS_MAX: Final = 1 << 18
"""Items of all lists and maps of a message together: every unit of a job with twenty arguments."""
ID_MAX: Final = (1 << 32) - 1
METHOD_CHARS_MAX: Final = 40
UNITS_MAX: Final = 10_000
AMOUNT_MAX: Final = 1 << 48
NAME_CHARS_MAX: Final = 200
DECREE_CHARS_MAX: Final = 64 << 10
COUNT_MAX: Final = 1_000
SECONDS_MAX: Final = 7 * 24 * 3600
REPLICAS_MAX: Final = 3
WORKERS_MAX: Final = 64
PEERS_CHECKED_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter: its type, whether it must be there, its default, and the bounds of its value or length."""

    kind: type[bool | int | float | str | bytes | list[Any] | dict[str, Any]]
    required: bool = False
    default: object = None
    low: int = 0
    high: int = 0


@dataclass(frozen=True, slots=True)
class Method:
    """One method: its parameters, and whether it streams events before its answer or takes parts after its request."""

    params: dict[str, Param]
    streams: bool = False
    takes_parts: bool = False


_TIMEOUT = Param(float, default=None, low=0, high=SECONDS_MAX)
_COUNT = Param(int, default=50, low=1, high=COUNT_MAX)

JOB_OPTIONS: Final[dict[str, Param]] = {
    "replicas": Param(int, default=2, low=1, high=REPLICAS_MAX),
    "workers": Param(int, default=None, low=1, high=WORKERS_MAX),
    "max_cost": Param(int, default=None, low=0, high=AMOUNT_MAX),
    "entry": Param(str, default=COMMAND_ENTRY, low=1, high=NAME_CHARS_MAX),
    "fuel": Param(int, default=None, low=1, high=FUEL_MAX),
    "memory_bytes": Param(int, default=None, low=1, high=MEMORY_BYTES_MAX),
    "wall_s": Param(float, default=None, low=0, high=WALL_S_MAX),
    "output_bytes": Param(int, default=None, low=1, high=OUTPUT_BYTES_MAX),
    "region": Param(str, default="", low=0, high=NAME_CHARS_MAX),
    "price_max": Param(int, default=None, low=0, high=AMOUNT_MAX),
    "timeout_s": _TIMEOUT,
    "name": Param(str, default="", low=0, high=NAME_CHARS_MAX),
}
"""What a job may ask for (SPEC.md §16); None means the node's own choice."""

UNIT_FIELDS: Final[dict[str, Param]] = {
    "args": Param(list, default=(), low=0, high=ARGS_MAX),
    "stdin": Param(bytes, default=b"", low=0, high=STDIN_BYTES_MAX),
}

METHODS: Final[dict[str, Method]] = {
    "version": Method({}),
    "status": Method({}),
    "peers": Method({}),
    "offers": Method({"kind": Param(str, default=None, low=1, high=NAME_CHARS_MAX)}),
    "balance": Method({"account": Param(str, default=None, low=1, high=NAME_CHARS_MAX)}),
    "send": Method(
        {
            "to": Param(str, required=True, low=1, high=NAME_CHARS_MAX),
            "amount": Param(int, required=True, low=1, high=AMOUNT_MAX),
            "memo": Param(str, default="", low=0, high=NAME_CHARS_MAX),
            "timeout_s": _TIMEOUT,
        },
        streams=True,
    ),
    "governance": Method({}),
    "decree.submit": Method(
        {"decree": Param(str, required=True, low=1, high=DECREE_CHARS_MAX), "timeout_s": _TIMEOUT},
        streams=True,
    ),
    "limits": Method({}),
    "limit.change": Method(
        {
            "beneficiary": Param(str, required=True, low=1, high=NAME_CHARS_MAX),
            "delta": Param(int, required=True, low=-AMOUNT_MAX, high=AMOUNT_MAX),
            "timeout_s": _TIMEOUT,
        },
        streams=True,
    ),
    "key": Method({}),
    "key.rekey": Method(
        {"entry": Param(bytes, required=True, low=1, high=ENTRY_BYTES_MAX), "timeout_s": _TIMEOUT},
        streams=True,
    ),
    "ledger.head": Method({}),
    "ledger.check": Method({"peers": Param(list, default=(), low=0, high=PEERS_CHECKED_MAX)}),
    "ledger.evidence": Method({}),
    "ledger.show": Method(
        {
            "from": Param(int, default=None, low=0, high=(1 << 63) - 1),
            "count": Param(int, default=10, low=1, high=100),
        }
    ),
    "ledger.receipts": Method({"count": _COUNT}),
    "ledger.receipt": Method({"entry": Param(str, required=True, low=64, high=64)}),
    "ledger.audit": Method({}, streams=True),
    "job.run": Method(
        {
            "module": Param(bytes, required=True, low=0, high=MODULE_BYTES_MAX),
            "units": Param(list, required=True, low=0, high=UNITS_MAX),
            "options": Param(dict, default=None, low=0, high=len(JOB_OPTIONS)),
        },
        streams=True,
        takes_parts=True,
    ),
    "jobs.ls": Method({"count": _COUNT}),
    "job.show": Method({"job": Param(str, required=True, low=1, high=NAME_CHARS_MAX)}),
    "stop": Method({"finish": Param(bool, default=False)}),
}
"""Every method of the local API (SPEC.md §16)."""

PART_FIELDS: Final[dict[str, Param]] = {
    "module": Param(bytes, default=b"", low=0, high=MODULE_BYTES_MAX),
    "units": Param(list, default=(), low=0, high=UNITS_MAX),
}


@dataclass(frozen=True, slots=True)
class Request:
    """A client asks for `method`; with `more`, parts follow before the node begins."""

    request_id: int
    method: str
    params: dict[str, Any]
    more: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """A further piece of a request's parameters; `last` ends them."""

    request_id: int
    fields: dict[str, Any]
    last: bool


@dataclass(frozen=True, slots=True)
class Reply:
    """One message of the node: `kind` is "event", "ok" or "error", `body` what it carries."""

    request_id: int
    kind: str
    body: Any


def encode_request(request: Request) -> bytes:
    """The frame body of a request."""
    message: dict[str, Any] = {"id": request.request_id, "method": request.method, "params": request.params}
    if request.more:
        message["more"] = True
    return pack(message)


def encode_part(part: Part) -> bytes:
    """The frame body of a further piece of parameters."""
    return pack({"id": part.request_id, "part": part.fields, "last": part.last})


def encode_event(request_id: int, event: dict[str, Any]) -> bytes:
    """The frame body of one event of a streaming method."""
    return pack({"id": request_id, "event": event})


def encode_ok(request_id: int, result: object) -> bytes:
    """The frame body of a request's final, good answer."""
    return pack({"id": request_id, "ok": result})


def encode_error(request_id: int, error: dict[str, Any]) -> bytes:
    """The frame body of a request's final refusal; `error` is `MillraceError.to_wire()`."""
    return pack({"id": request_id, "error": error})


def decode_from_client(data: bytes) -> Request | Part:
    """What a client sent; any other bytes are a `WireError`."""
    message = _message(data)
    request_id = _request_id(message)
    if "part" in message:
        _only(message, {"id", "part", "last"})
        last = message.get("last")
        if not isinstance(last, bool):
            raise WireError("a part needs `last`, true or false")
        return Part(request_id, check_fields("a part", PART_FIELDS, message["part"]), last)
    _only(message, {"id", "method", "params", "more"})
    method, params, more = message.get("method"), message.get("params", {}), message.get("more", False)
    if not isinstance(method, str) or not 1 <= len(method) <= METHOD_CHARS_MAX:
        raise WireError(f"`method` must be text of 1 to {METHOD_CHARS_MAX} characters")
    if not isinstance(params, dict):
        raise WireError("`params` must be a map")
    if not isinstance(more, bool):
        raise WireError("`more` must be true or false")
    return Request(request_id, method, params, more)


def decode_reply(data: bytes) -> Reply:
    """What a node answered; any other bytes are a `WireError`."""
    message = _message(data)
    request_id = _request_id(message)
    for kind in ("event", "ok", "error"):
        if kind in message:
            _only(message, {"id", kind})
            return Reply(request_id, kind, message[kind])
    raise WireError("an answer needs one of event, ok, error")


def check_params(method: str, params: dict[str, Any]) -> dict[str, Any]:
    """`params` with defaults filled in; unknown methods and unknown, missing or ill-typed ones are a `WireError`."""
    known = METHODS.get(method)
    if known is None:
        raise WireError(f"no method is called {method[:METHOD_CHARS_MAX]!r}; there are {', '.join(METHODS)}")
    checked = check_fields(f"`{method}`", known.params, params)
    if method == "job.run":
        checked["options"] = check_fields("`job.run` options", JOB_OPTIONS, checked["options"] or {})
        checked["units"] = check_units(checked["units"])
    return checked


def check_units(units: list[Any]) -> list[dict[str, Any]]:
    """Units with their defaults filled in: each has `args` (texts) and `stdin` (bytes)."""
    checked = []
    for index, unit in enumerate(units):
        fields = check_fields(f"unit {index}", UNIT_FIELDS, unit)
        for arg in fields["args"]:
            if not isinstance(arg, str) or len(arg) > ARGS_BYTES_MAX:
                raise WireError(
                    f"unit {index}: every argument must be text of at most {ARGS_BYTES_MAX} characters"
                )
        checked.append(fields)
    return checked


def check_fields(what: str, table: dict[str, Param], values: object) -> dict[str, Any]:
    """`values` checked against `table`, defaults filled in; `what` names them in the `WireError`."""
    if not isinstance(values, dict):
        raise WireError(f"{what} must be a map")
    unknown = sorted(set(values) - set(table))
    if unknown:
        names = ", ".join(table) or "none"
        raise WireError(
            f"{what} knows no parameter {', '.join(map(repr, unknown))[:200]}; known are: {names}"
        )
    checked: dict[str, Any] = {}
    for name, param in table.items():
        value = values.get(name)
        if value is None:
            if param.required:
                raise WireError(f"{what} needs the parameter {name!r}")
            checked[name] = list(param.default) if isinstance(param.default, tuple) else param.default
        else:
            checked[name] = _check_value(f"{what}: {name!r}", param, value)
    return checked


def _check_value(what: str, param: Param, value: Any) -> object:  # noqa: ANN401 - anything msgpack can hold
    wanted: tuple[type, ...] = (int, float) if param.kind is float else (param.kind,)
    # An exact type on purpose: True is an int to isinstance, and no amount.
    if type(value) not in wanted:
        raise WireError(
            f"{what} must be {_NAMES[param.kind]}, not {_NAMES.get(type(value), type(value).__name__)}"
        )
    if param.kind is bool:
        return value
    size = value if param.kind in (int, float) else len(value)
    if not param.low <= size <= param.high:  # a NaN fails this too
        measure = "is" if param.kind in (int, float) else "has the length"
        raise WireError(f"{what} {measure} {size}, allowed are {param.low} to {param.high}")
    return float(value) if param.kind is float else value


_NAMES: Final[dict[type, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    bytes: "bytes",
    list: "a list",
    dict: "a map",
}


def _message(data: bytes) -> dict[str, Any]:
    message = unpack(data, bytes_max=API_FRAME_BYTES_MAX, items_max=ITEMS_MAX)
    if not isinstance(message, dict):
        raise WireError("a message must be a map")
    return message


def _request_id(message: dict[str, Any]) -> int:
    request_id = message.get("id")
    if type(request_id) is not int or not 0 <= request_id <= ID_MAX:
        raise WireError(f"`id` must be a whole number from 0 to {ID_MAX}")
    return request_id


def _only(message: dict[str, Any], allowed: set[str]) -> None:
    unknown = sorted(set(message) - allowed)
    if unknown:
        raise WireError(f"unknown field {unknown[0][:40]!r}; allowed are {', '.join(sorted(allowed))}")
