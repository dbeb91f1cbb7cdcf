"""Runs a module as `python -m` does, in a process that ends when the one that started it does.

`python -m millrace.demo.child MODULE ARGS…`. The demo stops its processes in order; this is for the day when
the demo itself is killed: on Linux the kernel then asks its children to stop (prctl(2), PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Arm the signal, then become the module that `sys.argv` names."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() == 1:  # the demo ended before the signal was armed
            sys.exit(1)
    module, sys.argv = sys.argv[1], sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
