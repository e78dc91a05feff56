"""CKA against its plain formula, its invariances, and layers that are known to part."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from adaptinf.config import LoraConfig
from adaptinf.data import Sample
from adaptinf.errors import ConfigError, DataError, IdentityError, NonFiniteError
from adaptinf.models import LanguageModel, add_lora, remove_lora, save_adapter, trainable_parameters, wrap
from adaptinf.routing.similarity import (
    LayerFeatures,
    cross_task_cka,
    layer_features,
    linear_cka,
    rbf_cka,
    split_layer,
)
from tests import tiny_tokenizers

BOTH = pytest.mark.parametrize("cka", [linear_cka, rbf_cka])
EPS = 2.0**-52


def plain_linear(x: np.ndarray, y: np.ndarray) -> float:
    """In feature space, as Kornblith et al. write it."""
    x, y = x - x.mean(0), y - y.mean(0)
    cross = np.linalg.norm(y.T @ x, "fro") ** 2
    return cross / (np.linalg.norm(x.T @ x, "fro") * np.linalg.norm(y.T @ y, "fro"))


def plain_rbf(x: np.ndarray, y: np.ndarray) -> float:
    """Entry by entry, with the centring matrix."""
    n = len(x)
    h = np.eye(n) - np.full((n, n), 1 / n)

    def gram(z: np.ndarray) -> np.ndarray:
        squared = np.array([[sum((a - b) ** 2) for b in z] for a in z])
        sigma = np.sqrt(np.median(squared[squared != 0]))
        return np.exp(-squared / (2 * sigma**2))

    hsic = lambda k, m: np.trace(k @ h @ m @ h)  # noqa: E731
    k, m = gram(x), gram(y)
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def drawn(n: int, p: int, q: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two matrices that share a part."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n, 3))
    x, y = (shared @ rng.normal(size=(3, width)) + rng.normal(size=(n, width)) for width in (p, q))
    return x, y


@pytest.mark.parametrize(("n", "p", "q"), [(2, 3, 4), (5, 1, 1), (17, 4, 9), (30, 50, 2), (63, 6, 100)])
def test_the_plain_formulas(n, p, q):
    x, y = drawn(n, p, q)
    # sums of n^2 products of entries that themselves sum p (or q) products
    bound = EPS * n * (n + p + q)
    assert linear_cka(x, y) == pytest.approx(plain_linear(x, y), abs=bound)
    assert rbf_cka(x, y) == pytest.approx(plain_rbf(x, y), abs=bound)
    repeated = x.copy()
    repeated[: n // 2] = repeated[0]  # equal rows: their distances of 0 are not in the median
    if n > 2:
        assert rbf_cka(repeated, y) == pytest.approx(plain_rbf(repeated, y), abs=bound)


@BOTH
def test_invariances(cka):
    x, y = drawn(40, 7, 11)
    rng = np.random.default_rng(1)
    turn, _ = np.linalg.qr(rng.normal(size=(7, 7)))
    wanted = cka(x, y)
    assert 0.05 < wanted < 0.95
    near = {"abs": 1e-12}
    for changed in (x @ turn, -3.5 * x, 1e-30 * x, 1e30 * x, x + 100.0, x @ turn * 0.01 - 7):
        assert cka(x, changed) == pytest.approx(1, **near)
        assert cka(changed, y) == pytest.approx(wanted, **near)
    assert cka(y, x) == pytest.approx(wanted, **near)
    order = rng.permutation(40)
    assert cka(x[order], y[order]) == pytest.approx(wanted, **near)
    assert cka(x.astype(np.float32), torch.from_numpy(y)) == pytest.approx(wanted, abs=1e-5)
    stretched = x * np.geomspace(1, 50, 7)  # not isotropic: it does change
    assert cka(x, stretched) < 0.9


@BOTH
def test_independent_features_are_near_nothing(cka):
    rng = np.random.default_rng(3)
    n, p = 600, 4
    found = [cka(rng.normal(size=(n, p)), rng.normal(size=(n, p))) for _ in range(5)]
    assert all(0 <= value < 0.05 for value in found)
    # what the docstring says that chance makes of few samples
    wide = np.mean([linear_cka(rng.normal(size=(20, 60)), rng.normal(size=(20, 60))) for _ in range(30)])
    assert wide == pytest.approx(60 / 80, abs=0.03)


@BOTH
def test_rows_must_be_of_one_sample_each(cka):
    """The released code of HiDe-LLaVA feeds each model its own task's samples: equal models then look unlike."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(300, 5))
    assert cka(x, x) == pytest.approx(1, abs=1e-12)
    assert cka(x, x[rng.permutation(300)]) < 0.1
    assert cka(x, rng.normal(size=(300, 5))) < 0.1  # the same model on other samples of the same distribution


@BOTH
def test_what_has_no_similarity(cka):
    x, y = drawn(6, 3, 4)
    for bad, text in (
        (np.ones((6, 3)), "same for all samples"),
        (np.full((6, 3), 0.1) * [1, 2, 3], "same for all samples"),
        (x[:1], r"shape \(1, 3\)"),
        (x[:0], r"shape \(0, 3\)"),
        (x[:, 0], r"shape \(6,\)"),
        (x[:, :0], "same for all samples"),
    ):
        with pytest.raises(DataError, match=f"x: .*{text}"):
            cka(bad, y)
        with pytest.raises(DataError):
            cka(y, bad)
    with pytest.raises(DataError, match="y: has 5 rows, x has 6"):
        cka(x, y[:5])
    for value in (np.nan, np.inf):
        broken = y.copy()
        broken[2, 1] = value
        with pytest.raises(NonFiniteError, match="y: has a NaN"):
            cka(x, broken)
    with pytest.raises(DataError):  # nothing varies once it is rounded
        cka(np.full((6, 2), 1e300), y)


def features(*layers: np.ndarray, ids: tuple[str, ...] | None = None) -> LayerFeatures:
    return LayerFeatures(ids or tuple(map(str, range(len(layers[0])))), np.stack(layers).astype(np.float32))


def test_across_tasks_it_is_the_mean_over_pairs():
    rng = np.random.default_rng(0)
    each = {name: features(*rng.normal(size=(3, 20, 4))) for name in "abc"}
    for kernel, cka in (("linear", linear_cka), ("rbf", rbf_cka)):
        found = cross_task_cka(each, kernel)
        for layer in range(3):
            pairs = [cka(each[m].layers[layer], each[n].layers[layer]) for m, n in ("ab", "ac", "bc")]
            assert found[layer] == pytest.approx(np.mean(pairs), abs=1e-14)
    with pytest.raises(IdentityError, match="b: its samples are not those of 'a'"):
        cross_task_cka({"a": each["a"], "b": features(*each["b"].layers, ids=tuple("abcdefghijklmnopqrst"))})
    with pytest.raises(DataError, match="b: has 2 layers, 'a' has 3"):
        cross_task_cka({"a": each["a"], "b": features(*each["b"].layers[:2])})
    with pytest.raises(ConfigError, match="are 1"):
        cross_task_cka({"a": each["a"]})
    with pytest.raises(ConfigError, match="kernel"):
        cross_task_cka(each, "cosine")  # pyright: ignore[reportArgumentType]
    flat = each["b"].layers.copy()
    flat[1] = 2.0
    with pytest.raises(DataError, match="b, layer 1: is the same for all samples"):
        cross_task_cka({"a": each["a"], "b": features(*flat)})


def test_the_split_is_at_the_largest_drop():
    assert split_layer([1.0, 0.99, 0.6, 0.55]) == 2
    assert split_layer([1.0, 0.99, 0.98, 0.3]) == 3  # HiDe-LLaVA's finding: the last
    assert split_layer([1.0, 0.5, 0.9, 0.4]) == 1  # the first of equal drops
    assert split_layer([0.4, 0.7, 0.8]) == 3
    assert split_layer([1.0, 1.0]) == 2
    for bad in ([], [1.0], [[1.0, 0.5]]):
        with pytest.raises(DataError, match="cka: has shape"):
            split_layer(bad)
    with pytest.raises(NonFiniteError):
        split_layer([1.0, float("nan")])


@pytest.fixture
def lm() -> LanguageModel:
    tokenizer = tiny_tokenizers.of_bytes()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
    return wrap(model, tokenizer, name="tiny")


def samples(n: int = 24) -> list[Sample]:
    rng = np.random.default_rng(5)
    words = ["red", "blue", "one", "two", "what", "is", "big", "square"]
    texts = [" ".join(rng.choice(words, 2 + i % 5)) for i in range(n)]
    return [Sample.from_instruction(f"s{i}", text, "yes", task="t") for i, text in enumerate(texts)]


def trained(lm, folder, seed: int, layers: set[int], alpha: float = 8.0) -> None:
    """An adapter that moves these layers alone."""
    add_lora(lm, LoraConfig(r=4, alpha=alpha), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in trainable_parameters(lm):
            if "lora_B" in name and int(name.split(".layers.")[1].split(".")[0]) in layers:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    save_adapter(lm, folder)
    remove_lora(lm)


@pytest.mark.parametrize("parting", [1, 2, 3])
@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_the_split_is_found_where_adapters_part(lm, tmp_path, parting, kernel):
    """Adapters that are equal up to a layer, of unlike alpha, and each task's own from it on."""
    for task in range(3):
        trained(lm, tmp_path / str(task), seed=task, layers=set(range(parting, 4)), alpha=8.0 + 4 * task)
    weights = lm.identity()
    each = {str(task): layer_features(lm, tmp_path / str(task), samples()) for task in range(3)}
    assert lm.identity() == weights
    found = cross_task_cka(each, kernel)
    assert found[:parting] == pytest.approx(1, abs=1e-12)
    assert (found[parting:] < 0.9).all()
    assert split_layer(found) == parting


def test_features_are_the_layers_outputs_at_the_prompt(lm, tmp_path):
    trained(lm, tmp_path / "a", seed=1, layers={0, 1, 2, 3})
    ours = samples(7)
    for adapter, pooling in ((None, "mean"), (tmp_path / "a", "mean"), (tmp_path / "a", "last")):
        found = layer_features(lm, adapter, ours, pooling=pooling, batch_size=3)
        assert found.layers.shape == (4, 7, 16) and found.ids == tuple(f"s{i}" for i in range(7))
        model = lm.model
        if adapter is not None:
            import peft

            model = peft.PeftModel.from_pretrained(model, adapter).eval()
        for i, sample in enumerate(ours):  # each alone, by transformers
            ids = lm.encoder.encode_prompt(sample).input_ids
            with torch.no_grad():
                states = model(input_ids=ids[None], output_hidden_states=True).hidden_states
            for layer in range(3):  # what transformers gives for the last is after the final norm
                wanted = states[layer + 1][0].double()
                wanted = wanted.mean(0) if pooling == "mean" else wanted[-1]
                torch.testing.assert_close(
                    torch.from_numpy(found.layers[layer, i]).double(), wanted, rtol=0, atol=1e-5 * float(wanted.norm())
                )
        if adapter is not None:
            model.unload()
    one, other = (layer_features(lm, None, ours, batch_size=size) for size in (1, 7))
    np.testing.assert_allclose(one.layers, other.layers, atol=1e-5 * np.abs(one.layers).max())


def test_layer_features_leave_the_model_as_it_was(lm, tmp_path):
    trained(lm, tmp_path / "a", seed=1, layers={3})
    for layer in lm.model.model.layers:
        layer.self_attn.attention_dropout = 0.9
    found = layer_features(lm, tmp_path / "a", samples(3))
    lm.model.train()
    again = layer_features(lm, tmp_path / "a", samples(3))
    assert np.array_equal(found.layers, again.layers)  # no dropout
    assert lm.model.training and not hasattr(lm.model, "peft_config")
    assert not any(module._forward_hooks for module in lm.model.modules())
    with pytest.raises(Exception, match="no readable adapter"):
        layer_features(lm, tmp_path / "none", samples(3))
    assert lm.model.training and not hasattr(lm.model, "peft_config")
    with pytest.raises(DataError, match="samples: is empty"):
        layer_features(lm, None, [])
    with pytest.raises(ConfigError, match="pooling"):
        layer_features(lm, None, samples(2), pooling="max")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="batch_size"):
        layer_features(lm, None, samples(2), batch_size=0)
    add_lora(lm, LoraConfig(r=2), seed=0)
    with pytest.raises(ConfigError, match="has an adapter"):
        layer_features(lm, None, samples(2))
