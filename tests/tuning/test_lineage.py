"""The model of a step follows from the base and the stored adapters, not from what is in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from adaptinf.config import RunConfig
from adaptinf.models import LanguageModel, load_model, save_adapter
from adaptinf.tuning.lineage import Lineage
from adaptinf.tuning.loop import open_stream


def logits(lm: LanguageModel) -> torch.Tensor:
    with torch.no_grad():
        return lm.logits({"input_ids": torch.arange(6, 30)[None]})


@pytest.mark.parametrize("carry", ["continue", "merge", "fresh"])
def test_any_step_is_found_again(tiny_config: Callable[..., RunConfig], tmp_path: Path, carry: str) -> None:
    config = tiny_config(training={"carry_lora": carry})
    _, pretraining = open_stream(config, tmp_path / "quarantine.jsonl")

    def lineage(adapters: dict[int, Path]) -> Lineage:
        load = lambda: load_model(config.model, pretraining=pretraining, cache=config.cache_dir)  # noqa: E731
        return Lineage(config, config.training.carry_lora, load, adapters)

    running = lineage({})
    expected = {0: logits(running.after(0))}
    for step in (1, 2):
        lm = running.start_of(step)
        running.forget()
        with torch.no_grad():  # instead of training
            for name, parameter in lm.model.named_parameters():
                if "lora_" in name:
                    parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step))
        expected[step] = logits(lm)
        save_adapter(lm, tmp_path / carry / str(step))
        running.adapters[step] = tmp_path / carry / str(step)
    assert not torch.equal(expected[1], expected[2])
    for step in (2, 1, 2, 0, 1):  # in memory, out of order
        torch.testing.assert_close(logits(running.after(step)), expected[step], rtol=0, atol=0)
    if carry != "merge":
        torch.testing.assert_close(logits(running.bare()), expected[0], rtol=0, atol=0)
        torch.testing.assert_close(logits(running.after(2)), expected[2], rtol=0, atol=0)
    resumed = lineage(dict(running.adapters))
    torch.testing.assert_close(logits(resumed.after(1)), expected[1], rtol=0, atol=0)
