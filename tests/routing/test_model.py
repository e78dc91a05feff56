"""Many adapters behind one model: the same answers as one peft model each, in one batch, whoever comes and goes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from torch import nn

from adaptinf.config import LoraConfig
from adaptinf.data import Sample
from adaptinf.errors import AdapterMismatchError, ArtefactError, ConfigError
from adaptinf.models import LanguageModel, add_lora
from adaptinf.routing import OracleRouter, RoutedModel
from adaptinf.routing.adapters import Adapter, Factors
from adaptinf.routing.dispatch import dispatched

Llama = Callable[[], LanguageModel]


def requests() -> list[Sample]:
    tasks = ["a", "b", "", "c", "a", "c", "b"]
    texts = ["the quick", "brown", "fox jumps over the lazy dog", "and", "then", "it sleeps", "all day long"]
    return [
        Sample.from_instruction(f"r{i}", text, "yes", task=task)
        for i, (task, text) in enumerate(zip(tasks, texts, strict=True))
    ]


def served(llama: Llama, saved: dict[str, Path], **more: int) -> RoutedModel:
    router = OracleRouter()
    model = RoutedModel(llama(), router, **more)
    for name, directory in saved.items():
        router.add_task(name, [])
        model.add_adapter(name, directory)
    return model


def alone(llama: Llama, directory: Path | None) -> LanguageModel:
    lm = llama()
    if directory is not None:
        lm.model = peft.PeftModel.from_pretrained(lm.model, str(directory)).eval()  # pyright: ignore[reportArgumentType]
    return lm


def test_a_mixed_batch_equals_one_peft_model_a_sample(llama: Llama, saved: dict[str, Path]) -> None:
    model, samples = served(llama, saved), requests()
    mixed = model.logits(samples)
    answers = model.generate(samples, max_new_tokens=12, batch_size=4)
    for sample, logits, answer in zip(samples, mixed, answers, strict=True):
        lm = alone(llama, saved.get(sample.task))
        encoded = lm.encoder.encode(sample)
        with torch.no_grad():
            expected = lm.logits(lm.encoder.collate([encoded]))[0]
        assert logits.shape == expected.shape
        assert (logits - expected).abs().max() < 2e-5 * expected.abs().max()
        assert answer.text == lm.generate([sample], max_new_tokens=12, batch_size=1)[0]
        assert answer.task == (sample.task or None)
    texts = {answer.text for answer in answers}
    assert len(texts) > 4  # the adapters say different things


def test_a_task_without_an_adapter_is_the_base_models(llama: Llama, saved: dict[str, Path]) -> None:
    model, samples = served(llama, saved), requests()
    before = model.generate(samples, max_new_tokens=6)
    model.remove_adapter("b")
    after = model.generate(samples, max_new_tokens=6)
    base = alone(llama, None).generate(samples, max_new_tokens=6, batch_size=8)
    for sample, one, other, plain in zip(samples, before, after, base, strict=True):
        if sample.task in ("", "b"):
            assert (other.text, other.task) == (plain, None)
        else:
            assert other == one
    model.add_adapter("b", saved["b"])
    assert model.generate(samples, max_new_tokens=6) == before


def test_later_adapters_change_no_bit_of_earlier_ones(llama: Llama, saved: dict[str, Path]) -> None:
    """Nothing is forgotten: an expert's logits are the same bits before and after others arrive."""
    samples = [one for one in requests() if one.task == "a"]
    router = OracleRouter()
    model = RoutedModel(llama(), router)
    router.add_task("a", [])
    model.add_adapter("a", saved["a"])
    first = model.logits(samples)
    for name in ("b", "c"):
        router.add_task(name, [])
        model.add_adapter(name, saved[name])
    assert all(torch.equal(one, other) for one, other in zip(first, model.logits(samples), strict=True))
    state = {name: weight.clone() for name, weight in model.lm.model.state_dict().items()}
    model.generate(requests(), max_new_tokens=3)
    assert all(torch.equal(weight, state[name]) for name, weight in model.lm.model.state_dict().items())
    assert not any("forward" in vars(module) for module in model.lm.model.modules())  # nothing stays behind


def test_tasks_may_be_given(llama: Llama, saved: dict[str, Path]) -> None:
    model, samples = served(llama, saved), requests()
    wanted = ["c"] * 6 + [None]
    given = model.generate(samples, max_new_tokens=4, tasks=wanted)
    assert [answer.task for answer in given] == wanted
    lm = alone(llama, saved["c"])
    assert [one.text for one in given[:6]] == lm.generate(samples[:6], max_new_tokens=4, batch_size=8)
    with pytest.raises(ConfigError, match="names 1 tasks for 7 requests"):
        model.generate(samples, max_new_tokens=4, tasks=["a"])
    with pytest.raises(ConfigError, match=r"nobody: has no adapter\n.*served are a, b, c"):
        model.generate(samples, max_new_tokens=4, tasks=["nobody"] * 7)
    assert model.generate([], max_new_tokens=4) == []


def test_the_device_holds_the_most_recent_adapters(
    llama: Llama, saved: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = []
    to = Adapter.to
    monkeypatch.setattr(Adapter, "to", lambda self, device: moved.append(self.directory.name) or to(self, device))
    pool = served(llama, saved, limit=2).adapters
    for names in (["a"], ["b"], ["a"], ["c"], ["a"], ["b"]):
        assert list(pool.fetch(names)) == names
    assert moved == ["a", "b", "c", "b"]  # b made room for c, c for b; a was used in between
    moved.clear()
    assert set(pool.fetch(["a", "b", "c"])) == {"a", "b", "c"}  # what one batch needs is there at once
    assert moved == ["c"]
    pool.fetch(["b"])
    assert len(pool._near) == 2
    with pytest.raises(ConfigError, match="limit: is 0"):
        served(llama, {}, limit=0)


@pytest.mark.parametrize("shape", [(6, 3, 8), (18, 8)])
def test_rows_of_tokens_may_come_flat(shape: tuple[int, ...]) -> None:
    """Against a loop in float64; one row without an adapter, ranks that differ, a target that one adapter lacks."""
    rng = np.random.default_rng(0)

    def factors(rank: int, out: int) -> Factors:
        return Factors(*(torch.tensor(rng.normal(size=size), dtype=torch.float32) for size in ((8, rank), (rank, out))))

    model = nn.ModuleDict({"one": nn.Linear(8, 5), "two": nn.Linear(8, 4)})
    adapters = {
        "x": Adapter(Path(), {"one": factors(2, 5), "two": factors(2, 4)}),
        "y": Adapter(Path(), {"one": factors(3, 5)}),
    }
    rows = ["x", "y", None, "y", "x", "x"]
    x = torch.tensor(rng.normal(size=shape), dtype=torch.float32)
    with torch.no_grad(), dispatched(model, rows, adapters):
        found = {name: module(x) for name, module in model.items()}
    for name, module in model.items():
        weight, bias = module.weight.double(), module.bias.double()
        for i, row in enumerate(rows):
            part = x.reshape(6, 3, 8)[i].double()
            expected = part @ weight.T + bias
            if row is not None and name in adapters[row].factors:
                a, b = adapters[row].factors[name]
                expected = expected + part @ a.double() @ b.double()
            assert torch.allclose(found[name].reshape(6, 3, -1)[i].double(), expected, atol=1e-5)
    assert found["one"].shape == (*shape[:-1], 5)


def edited(directory: Path, to: Path, **changes: object) -> Path:
    to.mkdir()
    for file in directory.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    config = json.loads((to / "adapter_config.json").read_text()) | changes
    (to / "adapter_config.json").write_text(json.dumps(config))
    return to


def test_what_is_refused(llama: Llama, saved: dict[str, Path], tmp_path: Path) -> None:
    model = served(llama, {"a": saved["a"]})
    with pytest.raises(ConfigError, match="a: is served already"):
        model.add_adapter("a", saved["b"])
    with pytest.raises(ConfigError, match="z: has no adapter"):
        model.remove_adapter("z")
    with pytest.raises(ArtefactError, match="is no readable adapter"):
        model.add_adapter("z", tmp_path / "nowhere")
    for number, (setting, value) in enumerate(
        {"use_dora": True, "bias": "all", "modules_to_save": ["lm_head"], "rank_pattern": {"q_proj": 3}}.items()
    ):
        with pytest.raises(AdapterMismatchError, match=f"has {setting}"):
            model.add_adapter("z", edited(saved["a"], tmp_path / f"{number}", **{setting: value}))
    with pytest.raises(AdapterMismatchError, match="is not a LoRA adapter"):
        model.add_adapter("z", edited(saved["a"], tmp_path / "ia3", peft_type="IA3"))
    wrong = llama()
    wrong.model.model.layers[0].self_attn.q_proj = nn.Linear(32, 16)  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(AdapterMismatchError, match=r"q_proj does not fit tiny-llama: \(32, 32\) instead of \(32, 16\)"):
        RoutedModel(wrong, OracleRouter()).add_adapter("a", saved["a"])
    adapted = llama()
    add_lora(adapted, LoraConfig(r=2), seed=0)
    with pytest.raises(AdapterMismatchError, match="carries an adapter"):
        RoutedModel(adapted, OracleRouter())
    assert model.adapters.names == ["a"]  # what was refused left nothing
