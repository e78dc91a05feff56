"""One fit: repeatable, indifferent to the global random state, and clear about the sample that breaks it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from adaptinf.config import LoraConfig, RunConfig, TrainConfig
from adaptinf.data import Sample, load_stream, split_pretraining
from adaptinf.errors import EmptyTaskError, NonFiniteError
from adaptinf.models import Encoded, LanguageModel, add_lora, load_model, trainable_parameters
from adaptinf.models.kept import KeptEncodings
from adaptinf.tuning import fit
from adaptinf.tuning.moments import load_moments, save_moments

CONFIG = TrainConfig(steps=6, batch_size=4, learning_rate=5e-3)


@pytest.fixture
def prepared(tiny_config: Callable[..., RunConfig]) -> tuple[LanguageModel, list[Sample]]:
    config = tiny_config()
    stream = load_stream(config.data, seed=0, quarantine=None)
    pretraining, stream = split_pretraining(stream, config.model.pretrain.fraction, 0)
    lm = load_model(config.model, pretraining=pretraining, cache=config.cache_dir)
    add_lora(lm, LoraConfig(r=4, alpha=8, dropout=0.1), seed=0)
    return lm, [sample for task in stream for sample in task.train[:4]]


def weights(lm: LanguageModel) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten().clone() for _, parameter in trainable_parameters(lm)])


def restart(lm: LanguageModel, start: torch.Tensor) -> None:
    with torch.no_grad():
        for _, parameter in trainable_parameters(lm):
            value, start = start[: parameter.numel()], start[parameter.numel() :]
            parameter.copy_(value.view_as(parameter))


def test_learns_and_repeats_bit_for_bit(prepared: tuple[LanguageModel, list[Sample]]) -> None:
    lm, samples = prepared
    start = weights(lm)
    torch.manual_seed(1)
    first = fit(lm, samples, CONFIG, seed=3)
    one = weights(lm)
    restart(lm, start)
    torch.manual_seed(2)
    second = fit(lm, samples, CONFIG, seed=3)
    assert torch.equal(one, weights(lm)) and not torch.equal(one, start)
    assert first.history.equals(second.history)
    loss = first.history["loss"].to_numpy()
    assert len(loss) == first.steps == 6 and first.n_samples == 12 and first.flops > 0
    assert loss[3:].mean() < loss[:3].mean()
    assert not lm.model.training
    restart(lm, start)
    fit(lm, samples, CONFIG, seed=4)
    assert not torch.equal(one, weights(lm))


def test_moments_are_adams_and_come_back_from_disk(
    prepared: tuple[LanguageModel, list[Sample]], tmp_path: Path
) -> None:
    lm, samples = prepared
    result = fit(lm, samples, TrainConfig(steps=1, batch_size=4, learning_rate=5e-3, max_grad_norm=0), seed=3)
    moments = result.moments
    assert list(moments) == [name for name, _ in trainable_parameters(lm)]
    squares = torch.cat([one.second.flatten() for one in moments.values()]).double()
    firsts = torch.cat([one.first.flatten() for one in moments.values() if one.first is not None]).double()
    gradient = firsts / 0.1  # after one step m = (1 - b1) g and v = (1 - b2) g^2
    assert gradient.norm() > 1e-3
    assert torch.allclose(squares, 0.001 * gradient.square(), rtol=1e-5, atol=0)
    assert gradient.norm().item() == pytest.approx(result.history["grad_norm"][0].as_py(), rel=1e-4)
    save_moments(moments, tmp_path)
    for name, one in load_moments(tmp_path, torch.device("cpu")).items():
        assert torch.equal(one.second, moments[name].second) and one.arguments[3] == moments[name].arguments[3]


def test_a_step_is_that_of_its_samples_one_by_one(prepared: tuple[LanguageModel, list[Sample]]) -> None:
    """However the batch is cut into parts, and over two micro-batches: the token mean, and its gradient."""
    lm, samples = prepared
    long = Sample.from_instruction("long", "many words " * 60, "yes", task="t")
    samples = [*samples[:7], long]
    for module in lm.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    total, tokens = torch.zeros(()), 0
    for sample in samples:
        one = lm.encoder.encode(sample)
        log_p = lm.logits(lm.encoder.collate([one]))[0].log_softmax(-1)
        for i, token in enumerate(one.labels.tolist()):
            if token != -100:
                total, tokens = total - log_p[i - 1, token], tokens + 1
    (total / tokens).backward()
    norm = torch.stack([p.grad.norm() for _, p in trainable_parameters(lm) if p.grad is not None]).norm()
    lm.model.zero_grad()
    for split in ({"batch_size": 8}, {"batch_size": 4, "gradient_accumulation": 2}):
        start = weights(lm)
        found = fit(lm, samples, TrainConfig(steps=1, **split), seed=0)
        restart(lm, start)
        assert found.history["loss"][0].as_py() == pytest.approx(total.item() / tokens, rel=1e-4)
        assert found.history["grad_norm"][0].as_py() == pytest.approx(norm.item(), rel=1e-3)


def test_gradient_checkpointing_changes_memory_not_results(prepared: tuple[LanguageModel, list[Sample]]) -> None:
    lm, samples = prepared
    start = weights(lm)
    plain = fit(lm, samples, TrainConfig(steps=2, batch_size=4), seed=3)
    restart(lm, start)
    spared = fit(lm, samples, TrainConfig(steps=2, batch_size=4, gradient_checkpointing=True), seed=3)
    np.testing.assert_allclose(spared.history["loss"].to_numpy(), plain.history["loss"].to_numpy(), rtol=1e-5)


def test_a_non_finite_step_names_its_samples_or_is_skipped(prepared: tuple[LanguageModel, list[Sample]]) -> None:
    lm, samples = prepared
    bad = Sample.from_instruction("poisoned", "¿", "yes", task="t")
    known = {t for s in samples for t in lm.encoder.encode(s).input_ids.tolist()}
    only = [t for t in lm.encoder.encode(bad).input_ids.tolist() if t not in known]
    assert only
    poison = lambda m, args, out: out.masked_fill(torch.isin(args[0], torch.tensor(only))[..., None], torch.nan)  # noqa: E731
    lm.base.get_input_embeddings().register_forward_hook(poison)
    start = weights(lm)
    with pytest.raises(NonFiniteError, match="poisoned"):
        fit(lm, [*samples, bad], TrainConfig(epochs=1, batch_size=1), seed=0)
    restart(lm, start)
    result = fit(lm, [*samples, bad], TrainConfig(epochs=1, batch_size=1, on_nonfinite="skip"), seed=0)
    assert result.skipped == ["poisoned"] and torch.isfinite(weights(lm)).all()
    with pytest.raises(EmptyTaskError):
        fit(lm, [], CONFIG, seed=0)


def test_encodings_that_cannot_be_kept_are_made_batch_by_batch(
    prepared: tuple[LanguageModel, list[Sample]], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, samples = prepared
    start = weights(lm)
    kept = fit(lm, samples, TrainConfig(epochs=2, batch_size=2), seed=3)
    restart(lm, start)
    lm.encoder.kept = KeptEncodings(limit=0)  # pyright: ignore[reportAttributeAccessIssue]
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    most, encode = 0, lm.encoder.encode

    def counting(sample: Sample) -> Encoded:
        nonlocal most
        encoded = encode(sample)
        alive.add(encoded.input_ids)
        most = max(most, len(alive))
        return encoded

    monkeypatch.setattr(lm.encoder, "encode", counting)
    streamed = fit(lm, samples, TrainConfig(epochs=2, batch_size=2), seed=3)
    assert streamed.history.equals(kept.history)
    assert 0 < most <= 3 * 2 < len(samples)  # the batch, the one that is fetched ahead, the one that is being made
