"""Penalties against float64 formulas, their place in a step, and runs that continue with the same bytes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from adaptinf.config import LoraConfig, RunConfig, TrainConfig, from_dict
from adaptinf.data import Sample
from adaptinf.errors import ArtefactError, ConfigError, EmptyTaskError, NonFiniteError
from adaptinf.models import LanguageModel, add_lora, remove_lora, save_adapter, trainable_parameters, wrap
from adaptinf.store import read_table
from adaptinf.tuning import fit, run
from adaptinf.tuning.fisher import empirical_fisher, load_fisher, save_fisher
from adaptinf.tuning.regularisers import check_regulariser, make_regulariser
from tests import tiny_tokenizers

EPS = 2.0**-24
LAYERS, RANK = 2, 3
MODULES = LAYERS * 7
SAMPLES = [
    Sample.from_instruction(f"s{i}", f"how much is {i} and {i * i % 7}?", f"{i + i * i % 7}", task="t")
    for i in range(12)
]


def tiny() -> LanguageModel:
    tokenizer = tiny_tokenizers.of_bytes()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=LAYERS,
        num_attention_heads=2, max_position_embeddings=128, initializer_range=0.3,
        bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        lm = wrap(LlamaForCausalLM(config).eval(), tokenizer, name="tiny")
    add_lora(lm, LoraConfig(r=RANK, alpha=6), seed=0)
    return lm


def move(lm: LanguageModel, seed: int, size: float = 0.1) -> None:
    """Every trained weight, B too, somewhere else."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in trainable_parameters(lm):
            parameter += size * torch.randn(parameter.shape, generator=generator)


def weights(lm: LanguageModel) -> dict[str, np.ndarray]:
    return {name: one.detach().numpy().astype(np.float64) for name, one in trainable_parameters(lm)}


def stored(lm: LanguageModel, place: Path, seed: int) -> Path:
    """A training artefact of an earlier step: an adapter and a Fisher information."""
    move(lm, seed)
    save_adapter(lm, place / "adapter")
    generator = torch.Generator().manual_seed(seed)
    fisher = {name: torch.rand(one.shape, generator=generator) for name, one in trainable_parameters(lm)}
    save_fisher(fisher, None, place)
    return place


def settings(kind: str, weight: float = 0.7, **more: object) -> TrainConfig:
    return TrainConfig(regulariser=kind, regulariser_weight=weight, **more)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("kind", ["l2", "ewc", "olora"])
def test_value_and_gradient_are_the_formulas(kind: str, tmp_path: Path) -> None:
    lm = tiny()
    earlier = [stored(lm, tmp_path / str(step), step) for step in (1, 2)]
    if kind == "olora":
        remove_lora(lm)
        add_lora(lm, LoraConfig(r=RANK, alpha=6), seed=9)
    start = weights(lm)
    penalty = make_regulariser(settings(kind), lm, earlier)
    assert penalty is not None
    assert (penalty().item() > 0) == (kind == "olora")  # where a step begins, B is zero and A is not
    move(lm, 3)
    penalty().backward()
    now, value, expected = weights(lm), 0.0, {}
    adapters = [load_file(place / "adapter" / "adapter_model.safetensors") for place in earlier]
    fisher = load_file(earlier[-1] / "fisher.safetensors")
    for name, new in now.items():
        if kind == "olora":
            expected[name] = np.zeros_like(new)
            if "lora_A" in name:
                for adapter in adapters:
                    old = adapter[name.replace(".default", "")].astype(np.float64)
                    value += 0.7 / MODULES * np.abs(new @ old.T).sum()
                    expected[name] += 0.7 / MODULES * np.sign(new @ old.T) @ old
        else:
            scale = fisher[name].astype(np.float64) if kind == "ewc" else np.ones_like(new)
            value += 0.35 * (scale * (new - start[name]) ** 2).sum()
            expected[name] = 0.7 * scale * (new - start[name])
    # every value is a sum of at most `most` positive terms, each of them rounded a few times
    most = sum(one.size for one in now.values())
    assert penalty().item() == pytest.approx(value, rel=most * EPS)
    for name, parameter in trainable_parameters(lm):
        found = np.zeros_like(now[name]) if parameter.grad is None else parameter.grad.numpy()
        np.testing.assert_allclose(found, expected[name], rtol=8 * EPS, atol=64 * EPS * np.abs(expected[name]).max())


def test_the_first_step_and_no_regulariser_have_no_penalty(tmp_path: Path) -> None:
    lm = tiny()
    assert make_regulariser(settings("ewc"), lm, []) is None
    earlier = stored(lm, tmp_path / "1", 1)
    assert make_regulariser(TrainConfig(), lm, [earlier]) is None
    (earlier / "fisher.safetensors").unlink()
    with pytest.raises(ArtefactError, match=r"fisher\.safetensors"):
        make_regulariser(settings("ewc"), lm, [earlier])


def test_fisher_is_of_samples_one_by_one_and_sums_over_steps(tmp_path: Path) -> None:
    lm = tiny()
    move(lm, 1)
    found, flops = empirical_fisher(lm, SAMPLES[:5])
    assert flops > 0 and all(one.grad is None for _, one in trainable_parameters(lm))
    exact = tiny()
    move(exact, 1)
    exact.model.double()
    names, parameters = zip(*trainable_parameters(exact), strict=True)
    squares, total, tokens = [0.0] * len(names), [0.0] * len(names), 0
    for sample in SAMPLES[:5]:
        one = exact.encoder.encode(sample)
        log_p = exact.logits(exact.encoder.collate([one]))[0].log_softmax(-1)
        places = [i for i, label in enumerate(one.labels.tolist()) if label != -100]
        nll = -sum(log_p[i - 1, one.labels[i]] for i in places)
        gradients = torch.autograd.grad(nll, parameters)
        squares = [square + g.square() for square, g in zip(squares, gradients, strict=True)]
        total = [sum_ + g for sum_, g in zip(total, gradients, strict=True)]
        tokens += len(places)
    for name, square, sum_ in zip(names, squares, total, strict=True):
        expected = (square / tokens).numpy()
        # a gradient is a sum over at most 128 tokens of products that a few dozen roundings made
        np.testing.assert_allclose(found[name].numpy(), expected, rtol=0, atol=2 * 128 * EPS * expected.max())
        assert not np.allclose(expected, (sum_.square() / tokens).numpy(), rtol=0.1)  # not the square of the sum
    for step in ("1", "2"):
        (tmp_path / step).mkdir()
    save_fisher(found, None, tmp_path / "1")
    save_fisher(found, tmp_path / "1", tmp_path / "2")
    for name, values in load_fisher(tmp_path / "2", torch.device("cpu")).items():
        np.testing.assert_allclose(values.numpy(), 2 * found[name].numpy(), rtol=4 * EPS)


def test_a_gradient_that_is_not_finite_names_its_sample() -> None:
    lm = tiny()
    with pytest.raises(EmptyTaskError, match="no sample to take"):
        empirical_fisher(lm, [])
    with torch.no_grad():
        lm.base.model.norm.weight[3] = torch.nan
    with pytest.raises(NonFiniteError, match="s4: its gradient"):
        empirical_fisher(lm, SAMPLES[4:6])


def fitted(config: TrainConfig, tmp_path: Path, samples: list[Sample]) -> tuple[LanguageModel, dict[str, list[float]]]:
    lm = tiny()
    earlier = stored(lm, tmp_path / "1", 1)
    if config.regulariser == "olora":
        remove_lora(lm)
        add_lora(lm, LoraConfig(r=RANK, alpha=6), seed=9)
    result = fit(lm, samples, config, seed=3, regulariser=make_regulariser(config, lm, [earlier]))
    return lm, result.history.to_pydict()


@pytest.mark.parametrize("kind", ["ewc", "olora"])
def test_it_is_added_once_a_step_however_the_step_is_cut(kind: str, tmp_path: Path) -> None:
    """Of 12 samples the second step of 8 has but one micro-batch of 4."""
    common = {"epochs": 2, "learning_rate": 1e-2, "max_grad_norm": 0, "warmup_ratio": 0}
    _, whole = fitted(settings(kind, 5.0, batch_size=8, **common), tmp_path, SAMPLES)
    _, cut = fitted(settings(kind, 5.0, batch_size=4, gradient_accumulation=2, **common), tmp_path, SAMPLES)
    _, plain = fitted(settings("none", batch_size=8, **common), tmp_path, SAMPLES)
    assert plain["penalty"] == [0.0] * 4
    assert min(whole["penalty"][1:]) > 0.01
    for column in ("penalty", "loss", "grad_norm"):
        assert cut[column] == pytest.approx(whole[column], rel=2e-3)
    if kind == "ewc":  # the same start, so that the first step differs in nothing
        assert whole["loss"][0] == plain["loss"][0] and whole["penalty"][0] == 0
        assert whole["loss"][1] == pytest.approx(plain["loss"][1] + whole["penalty"][1], rel=1e-5)


def test_weight_zero_is_no_regulariser_and_a_large_one_holds(tmp_path: Path) -> None:
    common = {"steps": 5, "batch_size": 4, "learning_rate": 1e-2}
    free, history = fitted(settings("none", **common), tmp_path, SAMPLES)
    none, zero = fitted(settings("l2", 0.0, **common), tmp_path, SAMPLES)
    assert zero == history
    assert all(torch.equal(a, b) for a, b in zip(*map(tensors, (none, free)), strict=True))
    held, _ = fitted(settings("l2", 1e4, **common), tmp_path, SAMPLES)
    start = tiny()
    move(start, 1)
    far = [
        sum(float((a - b).square().sum()) for a, b in zip(tensors(one), tensors(start), strict=True))
        for one in (free, held)
    ]
    assert far[1] < 0.5 * far[0]
    kept, zero = fitted(settings("olora", 0.0, **common), tmp_path, SAMPLES)
    turned, history = fitted(settings("olora", 100.0, **common), tmp_path, SAMPLES)
    assert zero["penalty"] == [0.0] * 5 and history["penalty"][-1] < 0.8 * history["penalty"][0]
    assert not all(torch.equal(a, b) for a, b in zip(*map(tensors, (kept, turned)), strict=True))


def tensors(lm: LanguageModel) -> list[torch.Tensor]:
    return [one.detach() for _, one in trainable_parameters(lm)]


@pytest.mark.parametrize(
    ("kind", "carry", "message"),
    [
        ("l2", "merge", "training.carry_lora: l2 needs continue, not merge: it holds one adapter"),
        ("ewc", "fresh", "training.carry_lora: ewc needs continue, not fresh"),
        ("olora", "continue", "training.carry_lora: olora needs merge, not continue: earlier adapters are frozen"),
    ],
)
def test_adapters_that_do_not_follow_each_other_as_it_needs(kind: str, carry: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_regulariser(from_dict(RunConfig, {"training": {"regulariser": kind, "carry_lora": carry}}))
    fitting = {"regulariser": kind, "carry_lora": "merge" if kind == "olora" else "continue"}
    check_regulariser(from_dict(RunConfig, {"training": fitting}))
    for strategy in ("multitask", "switch"):
        with pytest.raises(ConfigError, match=f"has nothing to keep in {strategy}"):
            check_regulariser(from_dict(RunConfig, {"strategy": strategy, "training": fitting}))


@pytest.mark.parametrize(("kind", "carry"), [("ewc", "continue"), ("olora", "merge")])
def test_a_run_uses_it_and_continues_with_the_same_bytes(
    tiny_config: Callable[..., RunConfig], tmp_path: Path, kind: str, carry: str
) -> None:
    config = tiny_config(
        strategy="sequential",
        data={"order": ["country_language", "digit_compare"], "train_limit": 10, "test_limit": 2},
        training={"steps": 2, "warmup_ratio": 0, "regulariser": kind, "carry_lora": carry, "fisher_samples": 3},
        evaluation={"tasks": "new", "nll": False},
    )
    out = run(config, tmp_path / "run")
    places = sorted(out.glob("steps/*/training"))
    histories = [read_table(place / "history.parquet").to_pydict() for place in places]
    assert histories[0]["penalty"] == [0, 0]
    assert histories[1]["penalty"][1] > 0
    if kind == "ewc":
        sums = [sum(one.sum() for one in load_file(place / "fisher.safetensors").values()) for place in places]
        assert 0 < sums[0] < sums[1]
    before = {file: file.read_bytes() for file in out.rglob("*.safetensors")}
    shutil.rmtree(out / "steps" / "02_digit_compare")
    run(config, out)
    assert {file: file.read_bytes() for file in out.rglob("*.safetensors")} == before
