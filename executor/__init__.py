"""A stranger's work inside limits: sandboxes, metering and judges (SPEC.md §13, §14)."""
