"""A stranger's work inside limits: sandboxes, metering and judges (SPEC.md §13, §14).

The door is `executor.runner.open_runner`. Behind it: `selftest` (which layers stand), `sandbox` and `cgroups` (starting
and ending processes), `zygote` (talking to them), `cache`. Inside a sandbox: `child` and its `child_*` parts, `wasm`.
Decisions and bytes are in `executor.core`; `executor.core.judge` compares replicas.
"""
