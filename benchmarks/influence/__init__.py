"""How close influence functions come to training again; see ``__main__``."""

from __future__ import annotations
