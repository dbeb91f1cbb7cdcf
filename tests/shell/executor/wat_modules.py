"""Small modules for the tests, as WebAssembly text."""

from __future__ import annotations

from functools import cache

import wasmtime

_WASI = {
    "fd_write": "(param i32 i32 i32 i32) (result i32)",
    "fd_read": "(param i32 i32 i32 i32) (result i32)",
    "args_sizes_get": "(param i32 i32) (result i32)",
    "args_get": "(param i32 i32) (result i32)",
    "clock_time_get": "(param i32 i64 i32) (result i32)",
    "random_get": "(param i32 i32) (result i32)",
    "poll_oneoff": "(param i32 i32 i32 i32) (result i32)",
    "proc_exit": "(param i32)",
    "path_open": "(param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)",
    "fd_prestat_get": "(param i32 i32) (result i32)",
    "sock_accept": "(param i32 i32 i32) (result i32)",
}


def wasm(text: str) -> bytes:
    return bytes(wasmtime.wat2wasm(text))


def command(
    body: str, *, uses: str = "fd_write", memory: str = "2", more: str = "", local: str = ""
) -> bytes:
    """A WASI command whose `_start` is `body`; `$out` writes `size` bytes at `address` to a descriptor."""
    imports = "\n".join(
        f'(import "wasi_snapshot_preview1" "{name}" (func ${name} {_WASI[name]}))'
        for name in dict.fromkeys(["fd_write", *uses.split()])
    )
    return wasm(
        f"""(module {imports}
        (memory (export "memory") {memory})
        (func $out (param $fd i32) (param $address i32) (param $size i32)
          (i32.store (i32.const 0) (local.get $address))
          (i32.store (i32.const 4) (local.get $size))
          (drop (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
        {more}
        (func (export "_start") {local} {body}))"""
    )


HELLO = command(
    "(call $out (i32.const 1) (i32.const 16) (i32.const 6))", more='(data (i32.const 16) "hello\\n")'
)
SPIN = command("(loop $l (br $l))")
START_SPIN = wasm(
    '(module (func $s (loop $l (br $l))) (start $s) (memory (export "memory") 1) (func (export "_start")))'
)
EXIT_7 = command("(call $proc_exit (i32.const 7))", uses="proc_exit")
EXIT_0 = command("(call $proc_exit (i32.const 0)) unreachable", uses="proc_exit")
TRAP = command("(call $out (i32.const 1) (i32.const 16) (i32.const 4)) unreachable")
RECURSE = wasm(
    '(module (memory (export "memory") 1) (func $r (call $r) (call $r)) (func (export "_start") (call $r)))'
)
STDOUT_BOMB = command("(loop $l (call $out (i32.const 1) (i32.const 0) (i32.const 65536)) (br $l))")
STDERR_BOMB = command(
    "(loop $l (call $out (i32.const 2) (i32.const 0) (i32.const 65536))"
    "(local.set $i (i32.add (local.get $i) (i32.const 1)))"
    "(br_if $l (i32.lt_u (local.get $i) (i32.const 100))))",
    local="(local $i i32)",
)
# Grows until it is refused, touching every page, then prints how many pages it has.
MEMORY_BOMB = command(
    """(block $done (loop $l
         (br_if $done (i32.eq (memory.grow (i32.const 16)) (i32.const -1)))
         (memory.fill (i32.mul (i32.sub (memory.size) (i32.const 16)) (i32.const 65536))
                      (i32.const 1) (i32.const 1048576))
         (br $l)))
       (i32.store (i32.const 16) (memory.size))
       (call $out (i32.const 1) (i32.const 16) (i32.const 4))"""
)
MEMORY_AT_START = command("", memory="4096")
TABLE_BOMB = wasm(
    """(module (table $t 1 funcref) (memory (export "memory") 1)
    (func (export "grow") (result i32) (table.grow $t (ref.null func) (i32.const 100000000))))"""
)
TABLE_AT_START = wasm(
    '(module (table 20000000 funcref) (memory (export "memory") 1) (func (export "_start")))'
)
# Sleeps an hour of virtual time, then prints the monotonic clock.
SLEEP = command(
    """(i32.store8 (i32.const 72) (i32.const 0))
       (i32.store (i32.const 80) (i32.const 1))
       (i64.store (i32.const 88) (i64.const 3600000000000))
       (drop (call $poll_oneoff (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 192)))
       (drop (call $clock_time_get (i32.const 1) (i64.const 0) (i32.const 200)))
       (call $out (i32.const 1) (i32.const 200) (i32.const 8))""",
    uses="poll_oneoff clock_time_get",
)
SLEEP_FOREVER = command(
    """(i32.store8 (i32.const 72) (i32.const 0))
       (i64.store (i32.const 88) (i64.const 3600000000000))
       (loop $l (drop (call $poll_oneoff (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 192))) (br $l))""",
    uses="poll_oneoff",
)
# Prints what differs between machines elsewhere: wall clock, CPU clock, random bytes.
ORACLE = command(
    """(drop (call $clock_time_get (i32.const 0) (i64.const 0) (i32.const 64)))
       (drop (call $clock_time_get (i32.const 2) (i64.const 0) (i32.const 72)))
       (drop (call $random_get (i32.const 80) (i32.const 48)))
       (call $out (i32.const 1) (i32.const 64) (i32.const 64))""",
    uses="clock_time_get random_get",
)
# Copies stdin to stdout, 1,000 bytes at a time.
CAT = command(
    """(block $done (loop $l
         (i32.store (i32.const 32) (i32.const 4096)) (i32.store (i32.const 36) (i32.const 1000))
         (drop (call $fd_read (i32.const 0) (i32.const 32) (i32.const 1) (i32.const 40)))
         (br_if $done (i32.eqz (i32.load (i32.const 40))))
         (call $out (i32.const 1) (i32.const 4096) (i32.load (i32.const 40)))
         (br $l)))""",
    uses="fd_read",
)
ARGS = command(
    """(drop (call $args_sizes_get (i32.const 16) (i32.const 20)))
       (drop (call $args_get (i32.const 1024) (i32.const 2048)))
       (call $out (i32.const 1) (i32.const 2048) (i32.load (i32.const 20)))""",
    uses="args_sizes_get args_get",
)
# Tries to open a file below each of the first 16 descriptors, and to find a preopened folder or a socket there.
# Prints how many of these 48 calls succeeded.
ESCAPE = command(
    """(loop $l
         (local.set $n (i32.add (local.get $n) (i32.eqz (call $path_open (local.get $fd) (i32.const 0)
           (i32.const 16) (i32.const 16) (i32.const 0) (i64.const -1) (i64.const -1) (i32.const 0) (i32.const 64)))))
         (local.set $n (i32.add (local.get $n) (i32.eqz (call $fd_prestat_get (local.get $fd) (i32.const 64)))))
         (local.set $n (i32.add (local.get $n)
           (i32.eqz (call $sock_accept (local.get $fd) (i32.const 0) (i32.const 64)))))
         (local.set $fd (i32.add (local.get $fd) (i32.const 1)))
         (br_if $l (i32.lt_u (local.get $fd) (i32.const 16))))
       (i32.store (i32.const 16) (local.get $n))
       (call $out (i32.const 1) (i32.const 16) (i32.const 4))""",
    uses="path_open fd_prestat_get sock_accept",
    more='(data (i32.const 16) "../../etc/shadow")',
    local="(local $fd i32) (local $n i32)",
)
# A pointer of every host call that leads outside the memory: 0 when all of them were refused with errno fault (21).
WILD_POINTERS = command(
    """(i32.store (i32.const 16)
         (i32.or (i32.xor (call $random_get (i32.const -16) (i32.const 64)) (i32.const 21))
         (i32.or (i32.xor (call $clock_time_get (i32.const 0) (i64.const 0) (i32.const 131070)) (i32.const 21))
         (i32.or (i32.xor (call $fd_write (i32.const 1) (i32.const 131071) (i32.const 9) (i32.const 8)) (i32.const 21))
                 (i32.xor (call $fd_read (i32.const 0) (i32.const -1) (i32.const 1) (i32.const 8)) (i32.const 21))))))
       (call $out (i32.const 1) (i32.const 16) (i32.const 4))""",
    uses="random_get clock_time_get fd_read",
)
MATHS = wasm(
    """(module (memory (export "memory") 1)
    (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
    (func (export "both") (param i64 f64) (result i64 f64) (local.get 0) (local.get 1))
    (func (export "nan") (param f32) (result f32) (f32.div (local.get 0) (local.get 0)))
    (func (export "nan_bits") (param f64) (result i64)
      (i64.reinterpret_f64 (f64.sqrt (f64.neg (local.get 0)))))
    (func (export "div") (param i32 i32) (result i32) (i32.div_s (local.get 0) (local.get 1)))
    (func (export "none"))
    (func (export "reference") (result funcref) (ref.null func)))"""
)
UNKNOWN_IMPORT = wasm('(module (import "env" "system" (func (param i32) (result i32))))')
WRONG_TYPE = wasm('(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i64))))')
# About 50 ms of integer work on this machine per 100 million fuel; the work is the argument.
WORK = wasm(
    """(module (memory (export "memory") 1) (func (export "work") (param $n i32) (result i32) (local $x i32)
      (loop $l
        (local.set $x (i32.add (i32.mul (local.get $x) (i32.const 1664525)) (i32.const 1013904223)))
        (local.set $n (i32.sub (local.get $n) (i32.const 1)))
        (br_if $l (local.get $n)))
      (local.get $x)))"""
)


@cache
def compile_bomb() -> bytes:
    """One function just below the size limit, made to be hard on a register allocator: over 10 CPU seconds."""
    count, kept = 6_800, 2_000
    lines = "".join(
        f"(if (i32.load (local.get {i % kept})) (then (local.set {i * 7 % kept}"
        f" (i32.add (local.get {i * 3 % kept}) (local.get {i * 5 % kept})))))"
        for i in range(count)
    )
    return wasm(f"(module (memory 1) (func {'(local i32)' * kept} {lines}))")
