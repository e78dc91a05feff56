"""Features taken during a transformers training, against ``extract`` at the same weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adaptinf_kernels import Sketch
from torch import Tensor
from transformers import Trainer, TrainingArguments

from adaptinf.capture import TrainingFeatures, collate_with_ids, extract
from adaptinf.data import Sample
from adaptinf.errors import ConfigError, UnsupportedModelError
from adaptinf.models import LanguageModel

SKETCH = Sketch(kind="sjlt", k=64, seed=3)
SCORES = ("nll", "entropy", "el2n", "grad_norm")
TARGETS = ["model.layers.1", "model.norm"]
MakeLm = Callable[..., LanguageModel]


@pytest.fixture
def texts() -> list[Sample]:
    words = ("is there a blue square", "what is the colour of the circle", "two red triangles", "yes")
    return [
        Sample.from_instruction(f"t{i}", " ".join(words[: 1 + i % 3]), words[i % 4], task="t") for i in range(10)
    ]  # fmt: skip


def trainer(lm: LanguageModel, texts: list[Sample], watch: TrainingFeatures | None, out: Path, **more: Any) -> Trainer:
    """Plain SGD that never moves, so that every step sees the same weights."""
    encoded = {one.id: one for one in lm.encoder.encode_all(texts)[0]}

    def collate(examples: list[dict]) -> dict[str, Tensor]:
        return lm.encoder.collate([encoded[example["key"]] for example in examples], padding_side="right")

    options = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "learning_rate": 0.0} | more
    arguments = TrainingArguments(
        output_dir=str(out), num_train_epochs=1, use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True,
        remove_unused_columns=False, logging_strategy="no", optim="sgd", dataloader_pin_memory=False, **options,
    )  # fmt: skip
    dataset: Any = [{"id": text.id, "key": text.id} for text in texts]
    return Trainer(
        model=lm.model, args=arguments, train_dataset=dataset, eval_dataset=dataset,
        data_collator=collate_with_ids(collate) if watch is not None else collate,
        callbacks=[watch] if watch is not None else [],
    )  # fmt: skip


@pytest.mark.parametrize("loss", ["mean_answer_tokens", "sum"])
@pytest.mark.parametrize("counted", [True, False], ids=["num_items_in_batch", "means of micro-batches"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_equals_an_extraction_whatever_the_batches(
    make_lm: MakeLm, texts: list[Sample], tmp_path: Path, loss: str, counted: bool, checkpointing: bool
) -> None:
    lm = make_lm("llama")
    expected = extract(lm, texts, sketch=SKETCH, targets=TARGETS, scores=SCORES, hidden=None, loss=loss)  # pyright: ignore[reportArgumentType]
    watch = TrainingFeatures(sketch=SKETCH, scores=SCORES, targets=TARGETS, loss=loss)  # pyright: ignore[reportArgumentType]
    options = {"gradient_checkpointing_kwargs": {"use_reentrant": False}} if checkpointing else {}
    run = trainer(lm, texts, watch, tmp_path, gradient_checkpointing=checkpointing, **options)
    run.model_accepts_loss_kwargs = counted
    run.train()
    found = watch.features()
    assert sorted(found.ids) == sorted(expected.ids) and found.ids != expected.ids
    np.testing.assert_array_equal(found.scores["step"], [1] * 6 + [2] * 4)
    order = [expected.ids.index(id) for id in found.ids]
    assert found.sketch is not None and expected.sketch is not None
    size = np.abs(expected.sketch).max()
    np.testing.assert_allclose(found.sketch, expected.sketch[order], rtol=0, atol=1e-5 * size)
    for name in (*SCORES, "n_answer_tokens"):
        np.testing.assert_allclose(found.scores[name], expected.scores[name][order], rtol=2e-5)
    if not checkpointing:  # transformers leaves a hook of its own
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm.model.modules())


def test_training_is_the_same_with_and_without(make_lm: MakeLm, texts: list[Sample], tmp_path: Path) -> None:
    weights = []
    for watch in (None, TrainingFeatures(sketch=SKETCH)):
        lm = make_lm("llama")
        run = trainer(lm, texts, watch, tmp_path, learning_rate=0.1, eval_strategy="steps", eval_steps=1)
        run.train()
        weights.append(copy.deepcopy(lm.model.state_dict()))
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=0, atol=0)


def test_repetitions_are_told_apart_by_step(make_lm: MakeLm, texts: list[Sample], tmp_path: Path) -> None:
    watch = TrainingFeatures(sketch=None, scores=["nll"])
    lm = make_lm("llama")
    trainer(lm, texts, watch, tmp_path, learning_rate=0.1, max_steps=4).train()
    found = watch.features()
    assert found.sketch is None and len(found) > len(texts)
    assert sorted(set(found.scores["step"])) == [1, 2, 3, 4]
    found.save(tmp_path)
    assert type(found).load(tmp_path).ids == found.ids


def test_bad_requests_name_what_is_wrong(make_lm: MakeLm, texts: list[Sample], tmp_path: Path) -> None:
    lm = make_lm("llama")
    watch = TrainingFeatures(sketch=SKETCH)
    run = trainer(lm, texts, watch, tmp_path)
    with_ids = run.data_collator
    run.data_collator = lambda examples: {k: v for k, v in with_ids(examples).items() if k != "ids"}
    with pytest.raises(ConfigError, match=r"no ids[\s\S]*collate_with_ids"):
        run.train()
    watch.close()
    run.data_collator = lambda examples: {**with_ids(examples), "ids": ["one"]}
    with pytest.raises(ConfigError, match="1 ids for 3 samples"):
        run.train()
    watch.close()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm.model.modules())
    run.args.fp16 = True
    with pytest.raises(UnsupportedModelError, match="fp16"):
        watch.on_train_begin(run.args, run.state, run.control, model=lm.model)
    with pytest.raises(ConfigError, match="mean_answer_tokens, sum"):
        TrainingFeatures(sketch=SKETCH, loss="batch")  # pyright: ignore[reportArgumentType]
