"""One base model that answers each request through the adapter of its task."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TextGenerationPipeline, pipeline

from adaptinf.data import Sample
from adaptinf.errors import AdapterMismatchError, ConfigError, UnsupportedModelError
from adaptinf.models import LanguageModel
from adaptinf.routing.adapters import AdapterPool
from adaptinf.routing.dispatch import dispatched
from adaptinf.routing.pipeline import RoutedPipeline
from adaptinf.routing.router import Router


@dataclass(frozen=True)
class Answer:
    """``task``: whose adapter made the text, None for the base model; ``confidence``: the router's in its best task."""

    text: str
    task: str | None
    confidence: float


class RoutedModel:
    """A base model, a router, and an adapter for each of its tasks.

    Requests of one batch go through different adapters in a single forward pass (:func:`dispatched`); one that the
    router abstains from, or whose task has no adapter yet, is answered by the base model. Adapters are standard peft
    directories, come and go between calls, and stay in host memory beyond the ``limit`` that the device holds.

    Raises AdapterMismatchError where ``lm`` already carries an adapter of its own.
    """

    def __init__(self, lm: LanguageModel, router: Router, *, limit: int | None = None) -> None:
        if hasattr(lm.model, "peft_config"):
            raise AdapterMismatchError("carries an adapter", item=lm.name, remedy="remove_lora(lm), or merge_lora(lm)")
        self.lm, self.router = lm, router
        self.adapters = AdapterPool(lm, limit)

    def add_adapter(self, task: str, directory: Path | str) -> None:
        """Serve a saved adapter for a task. Raises ConfigError, ArtefactError or AdapterMismatchError."""
        self.adapters.add(task, Path(directory))

    def remove_adapter(self, task: str) -> None:
        """Its requests go to the base model from now on."""
        self.adapters.remove(task)

    def generate(
        self,
        samples: Sequence[Sample],
        *,
        max_new_tokens: int,
        batch_size: int = 32,
        tasks: Sequence[str | None] | None = None,
    ) -> list[Answer]:
        """Greedy answers in the order of the samples, routed, or through the adapters of ``tasks``.

        Raises ConfigError where ``tasks`` names one without an adapter.
        """
        rows, confidence = self._routed(samples, tasks)
        texts = self.lm.generate(
            samples,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            around=lambda batch: self._through(rows, batch),
        )
        return [Answer(*one) for one in zip(texts, rows, confidence, strict=True)]

    @torch.no_grad()
    def logits(self, samples: Sequence[Sample], *, tasks: Sequence[str | None] | None = None) -> list[Tensor]:
        """[T_i, V] of each sample with its answer, as one batch."""
        rows, _ = self._routed(samples, tasks)
        encoded = [self.lm.encoder.encode(sample) for sample in samples]
        with self._through(rows, range(len(rows))):
            found = self.lm.logits(self.lm.encoder.collate(encoded))
        return [logits[: len(one.input_ids)] for logits, one in zip(found, encoded, strict=True)]

    def dispatched(self, samples: Sequence[Sample]) -> AbstractContextManager[None]:
        """For the context, batches of these requests in this order run through the adapters that the router chooses."""
        rows, _ = self._routed(samples, None)
        return self._through(rows, range(len(rows)))

    def pipeline(self, **options: Any) -> TextGenerationPipeline:
        """``transformers.pipeline("text-generation")`` with these requests' adapters; ``options`` are its own.

        It takes texts and chats of text, and ends an answer where :meth:`generate` does. As any such pipeline it
        samples and repeats the request unless told not to: ``do_sample=False``, ``return_full_text=False``.

        Raises UnsupportedModelError for a model of pictures and text.
        """
        tokenizer = getattr(self.lm.encoder, "tokenizer", None)
        if tokenizer is None or getattr(self.lm.encoder, "sees", False):
            raise UnsupportedModelError("is no model of text alone", item=self.lm.name, remedy="use generate")
        return pipeline(
            "text-generation",
            model=self.lm.base,
            tokenizer=copy(tokenizer),  # whose padding side the pipeline changes
            pipeline_class=RoutedPipeline,
            routed=self,
            **{"device": self.lm.device, "eos_token_id": self.lm.encoder.stop_ids} | options,
        )

    def _through(self, rows: Sequence[str | None], batch: Sequence[int]) -> AbstractContextManager[None]:
        mine = [rows[i] for i in batch]
        return dispatched(self.lm.base, mine, self.adapters.fetch(sorted({row for row in mine if row is not None})))

    def _routed(
        self, samples: Sequence[Sample], tasks: Sequence[str | None] | None
    ) -> tuple[list[str | None], list[float]]:
        if tasks is None:
            routes = self.router.predict(samples)
            served = set(self.adapters.names)
            return [task if task in served else None for task in routes.tasks], routes.confidence.tolist()
        if len(tasks) != len(samples):
            raise ConfigError(f"names {len(tasks)} tasks for {len(samples)} requests", item="tasks")
        return list(tasks), [1.0] * len(samples)
