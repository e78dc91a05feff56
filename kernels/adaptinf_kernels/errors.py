"""What the kernels raise beside ``ValueError`` and ``TypeError`` for bad arguments."""

from __future__ import annotations


class NotSupportedError(RuntimeError):
    """The implementation that was asked for cannot run on these inputs; ``reasons`` says why, one line each."""

    def __init__(self, what: str, reasons: list[str]) -> None:
        self.reasons = reasons
        super().__init__("\n".join([what, *(f"  - {reason}" for reason in reasons)]))
