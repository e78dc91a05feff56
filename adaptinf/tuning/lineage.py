"""Which weights the model has after each step, and how to get back to them from the artefacts alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from adaptinf.config import RunConfig
from adaptinf.models import LanguageModel, add_lora, load_adapter, merge_lora, remove_lora
from adaptinf.tuning.seeds import stage_seed

Carry = Literal["continue", "merge", "fresh"]


class Lineage:
    """The model as a function of the step, loaded when first needed.

    ``after(t)`` is the model as step t left it (t = 0: the base with an adapter that changes nothing); ``start_of(t)``
    is where the training of step t starts. Both are made from the base and the stored adapters, never from what happens
    to be in memory, so that a resumed run has the same bits. ``carry`` says how they follow each other:

    - ``continue``: one adapter is trained further and further;
    - ``merge``: each step's adapter is merged into the base before the next step trains a new one;
    - ``fresh``: each step trains a new adapter on the untouched base; earlier tasks live on only by replay, or in the
      adapters of a routed model.
    """

    def __init__(
        self, config: RunConfig, carry: Carry, load: Callable[[], LanguageModel], adapters: dict[int, Path]
    ) -> None:
        self.config, self.carry, self.adapters = config, carry, adapters
        self._load, self._lm, self._state = load, None, None

    def after(self, step: int) -> LanguageModel:
        lm = self._at(("after", step))
        if lm is None:
            lm = self._after(step)
            self._state = ("after", step)
        return lm

    def start_of(self, step: int) -> LanguageModel:
        trained = self._trained_before(step)
        if self.carry == "continue":
            return self.after(trained[-1] if trained else 0)
        lm = self._at(("start", step))
        if lm is None:
            lm = self._base(merged=trained if self.carry == "merge" else [], step=step)
            self._state = ("start", step)
        return lm

    def bare(self) -> LanguageModel:
        """The base without any adapter; not with ``carry="merge"``, which changes it."""
        assert self.carry != "merge"
        if self._lm is None:
            self._lm = self._load()
        remove_lora(self._lm)
        self._state = None
        return self._lm

    def forget(self) -> None:
        """The weights in memory changed (training): the next request loads what was stored."""
        self._state = None

    def _at(self, state: tuple[str, int]) -> LanguageModel | None:
        return self._lm if self._state == state else None

    def _trained_before(self, step: int) -> list[int]:
        return sorted(number for number in self.adapters if number < step)

    def _after(self, step: int) -> LanguageModel:
        merges = self.carry == "merge"
        if self._lm is not None and step in self.adapters and not merges:
            lm = self._lm  # the stored adapter takes the place of every weight of the one in memory
        else:
            lm = self._base(merged=self._trained_before(step) if merges else [])
        if step in self.adapters:
            load_adapter(lm, self.adapters[step])
        return lm

    def _base(self, *, merged: list[int], step: int = 0) -> LanguageModel:
        """The base with the given steps' adapters merged in, and a new adapter."""
        if self._lm is None or self.carry == "merge":
            self._lm = self._load()
        else:
            remove_lora(self._lm)
        for number in merged:
            load_adapter(self._lm, self.adapters[number])
            merge_lora(self._lm)
        add_lora(self._lm, self.config.lora, seed=stage_seed(self.config.seed, step, "lora"))
        return self._lm
