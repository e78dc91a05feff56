"""The hook of the crash tests: named points at which a test can kill the process, as a power cut would.

``ADAPTINF_FAULT=kill:<name>`` sends SIGKILL to this process when the point is reached; ``ADAPTINF_FAULT=log:<file>``
appends the name of every point to a file, which is how a test learns them all. Unset, a point costs one look-up.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "ADAPTINF_FAULT"


def point(name: str) -> None:
    """Pass the durable step ``name``."""
    order = os.environ.get(VARIABLE)
    if not order:
        return
    action, _, argument = order.partition(":")
    if action == "log":
        with open(argument, "a") as log:
            log.write(name + "\n")
    elif action == "kill" and argument == name:
        os.kill(os.getpid(), signal.SIGKILL)
