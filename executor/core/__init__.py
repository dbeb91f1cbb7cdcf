"""The deterministic part of the executor: tasks, limits, outcomes and judges."""
