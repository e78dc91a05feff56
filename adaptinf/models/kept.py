"""Encodings kept from one use of a sample to the next: a time step encodes only what no earlier step has met."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

from adaptinf.models.collate import Encoded

KEPT_BYTES = 512 << 20
"""Of an encoder's kept encodings, pictures included."""


class KeptEncodings:
    """Encodings by all that they follow from, at most ``limit`` bytes of them; the longest unused are given up first.

    What is kept is handed out again, not copied: an encoding is never changed in place.
    """

    def __init__(self, limit: int = KEPT_BYTES) -> None:
        self.limit = limit
        self.held = 0
        self._kept: OrderedDict[Hashable, Encoded] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Encoded]) -> Encoded:
        """The encoding of ``key``, made if it is not there; what ``make`` raises is raised every time."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        made = make()
        if made.nbytes <= self.limit:
            self._kept[key] = made
            self.held += made.nbytes
            while self.held > self.limit:
                _, oldest = self._kept.popitem(last=False)
                self.held -= oldest.nbytes
        return made
