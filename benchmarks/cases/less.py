"""The LESS pipeline from samples to features: LoRA gradients of a dataset, projected to 8192 numbers."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

import torch
from adaptinf_kernels import Sketch, project
from torch import Tensor

from adaptinf.capture import extract, find_targets
from benchmarks import models, peers
from benchmarks.case import Case, Contender, Outputs, Setting, Workload
from benchmarks.gate import Close, Unbiased, gram

K = 8192
STACKED = 16
"""Gradients that LESS projects at once."""

_CHECKED = 2


def lengths(count: int, mean: int, longest: int) -> list[int]:
    """Tokens of each sample: as long-tailed as instruction data are, between 12 and ``longest``."""
    draw = random.Random(1)
    return [max(12, min(longest, round(draw.lognormvariate(0, 0.6) * mean))) for _ in range(count)]


def _build(setting: Setting, *, size: models.Size, count: int, mean: int) -> Workload:
    size, count, mean = (models.TINY, 4, 16) if setting.tiny else (size, count, mean)
    sketch = Sketch(kind="sjlt", k=256 if setting.tiny else K)
    lm = models.language_model(setting, size, lora=8)
    dataset = models.samples(size, lengths(count, mean, size.tokens))
    encoded = [lm.encoder.encode(sample) for sample in dataset]
    names = list(find_targets(lm, "all", "lora"))
    truth = models.Truth(lm, encoded, names)

    def ours() -> Tensor:
        found = extract(lm, dataset, sketch=sketch, layers="all", parameters="lora", scores=(), hidden=None)
        assert found.sketch is not None
        return torch.from_numpy(found.sketch)

    def less() -> Callable[[], Tensor]:
        select = models.trainable(lm, names)
        columns = sum(lm.model.get_parameter(name).numel() for name in names)
        stacked = torch.zeros(STACKED, columns, device=setting.device, dtype=setting.dtype)
        projected = peers.trak(columns, sketch.k, setting.device, stacked)

        def run() -> Tensor:
            wanted, features = select(), []
            for start in range(0, count, STACKED):
                part = encoded[start : start + STACKED]
                for row, one in zip(stacked, part, strict=False):  # the last stack may be short
                    loss = models.sample_losses(lm, models.collate(lm, [one])).sum()
                    gradients = torch.autograd.grad(loss, list(wanted.values()))
                    row.copy_(torch.cat([gradient.flatten() for gradient in gradients]))
                features.append(projected()[: len(part)])
            return torch.cat(features)

        return run

    def expected(gradients: dict[str, Tensor]) -> Outputs:
        parts = [project(g, sketch, name=name, impl="reference").double() for name, g in gradients.items()]
        return {"features": torch.stack(parts).sum(0)}

    exact = Close(
        lambda: expected(truth.exact(_CHECKED)), lambda: expected(truth.rough(_CHECKED)), required=["features"]
    )
    own = Unbiased(lambda: gram(truth.rough(count).values()), scale=sketch.k**-0.5)
    contenders = (
        Contender("less", less, own, lambda value: {"features": value}),
        Contender("extract", lambda: ours, exact, lambda value: {"features": value[:_CHECKED]}, ours=True),
    )
    tokens = sum(len(one.input_ids) for one in encoded)
    return Workload({"samples": count, "tokens": tokens, "k": sketch.k}, contenders, samples=count)


def _case(name: str, rank: int, suite: Any, size: models.Size, count: int, mean: int) -> Case:
    return Case(name, functools.partial(_build, size=size, count=count, mean=mean), "less", rank, (suite,))


CASES = (
    _case("less", 4, "cpu", models.SMALL, 16, 80),
    _case("less-1b", 4, "gpu", models.LLAMA_1B, 32, 371),
    _case("less-1b-short", 5, "gpu", models.LLAMA_1B, 128, 48),
)
