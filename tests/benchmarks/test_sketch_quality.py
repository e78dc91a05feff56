"""The study of sketches on a model: autograd's gradients, the library's sketches, measures that are what they say."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from adaptinf_kernels import project
from scipy.stats import spearmanr
from transformers import LlamaConfig, LlamaForCausalLM

from adaptinf.models import Encoded
from benchmarks.sketch_quality.__main__ import feed, markdown
from benchmarks.sketch_quality.gradients import Factors, layers
from benchmarks.sketch_quality.measures import compare, independent
from benchmarks.sketch_quality.targets import Target


@pytest.fixture
def lm() -> SimpleNamespace:
    """What of a LanguageModel the study uses."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, use_cache=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    return SimpleNamespace(
        model=model,
        decoder_layers=[(f"model.layers.{i}", layer) for i, layer in enumerate(model.model.layers)],
        encoder=SimpleNamespace(collate=lambda batch: {"input_ids": batch[0].input_ids[None]}),
        logits=lambda batch: model(**batch).logits,
    )


@pytest.fixture
def samples() -> list[Encoded]:
    generator = torch.Generator().manual_seed(1)
    found = []
    for number, length in enumerate((9, 4, 13, 6, 8)):
        ids = torch.randint(50, (length,), generator=generator)
        labels = ids.clone()
        labels[: length // 2] = -100
        found.append(Encoded(str(number), ids, labels, {}, 0))
    return found


def test_factors_are_the_gradients_of_each_sample_alone(lm, samples: list[Encoded]) -> None:
    found = {weight.name: weight for _, weights in layers(lm, samples) for weight in weights}
    linear = {n for n, m in lm.model.model.layers.named_modules() if isinstance(m, torch.nn.Linear)}
    assert set(found) == {f"model.layers.{name}.weight" for name in linear}
    assert len(found) == 21
    lm.model.requires_grad_()
    for number, sample in enumerate(samples):
        lm.model.zero_grad()
        lm.model(input_ids=sample.input_ids[None], labels=sample.labels[None]).loss.backward()
        for name, weight in found.items():
            exact = lm.model.get_parameter(name).grad
            torch.testing.assert_close(weight.g[number].T @ weight.x[number], exact, rtol=1e-4, atol=1e-7)


def test_targets_hold_the_library_s_sketches() -> None:
    """Blocks of rows and several weights add up to ``project`` of each, in every kind."""
    generator = torch.Generator().manual_seed(2)
    weights = []
    for name, d_out, d_in in (("a.weight", 300, 5), ("b.weight", 7, 40)):
        x = [torch.randn(length, d_in, generator=generator) for length in (3, 1, 8)]
        weights.append(Factors(name, x, [torch.randn(len(part), d_out, generator=generator) for part in x]))
    target = Target("both", 3, [64], 2, dense=[64])
    gram = np.zeros((3, 3))
    for weight in weights:
        feed(weight, [target])
        flat = torch.stack([g.T @ x for x, g in zip(weight.x, weight.g, strict=True)]).flatten(1).double().numpy()
        gram += flat @ flat.T
    np.testing.assert_allclose(target.gram, gram, rtol=1e-5)
    kinds = set()
    for sketch, total in target._sums.items():
        expected = sum(
            project(torch.stack([g.T @ x for x, g in zip(w.x, w.g, strict=True)]), sketch, name=w.name) for w in weights
        )
        z = total.sum(0).T * sketch.scale
        np.testing.assert_allclose(z, expected.numpy(), rtol=1e-4, atol=1e-3)
        kinds.add((sketch.kind, sketch.nonzeros, sketch.repetitions, sketch.seed))
    assert len(kinds) == 2 * 5
    rows = list(target.results())
    assert len({row["kind"] for row in rows}) == 8
    assert all(0.1 < row["error"] < 10 for row in rows)
    assert markdown(rows).count("\n") == 3


def test_measures() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((40, 300))
    gram = rows @ rows.T
    exact = compare(gram, rows)
    assert exact["error"] < 1e-12
    assert exact["spearman"] == pytest.approx(1)
    assert exact["recall"] == 1
    noisy = rows + 2 * rng.standard_normal(rows.shape)
    found = compare(gram, noisy)
    inner = noisy @ noisy.T
    others = [np.delete(np.arange(40), i) for i in range(40)]
    expected = np.mean([spearmanr(gram[i, o], inner[i, o]).statistic for i, o in enumerate(others)])
    assert found["spearman"] == pytest.approx(expected)
    pairs = np.triu_indices(40, 1)
    variance = (np.outer(np.diag(gram), np.diag(gram)) + gram**2)[pairs] / 300
    assert found["error"] == pytest.approx(np.sqrt(((inner - gram)[pairs] ** 2 / variance).mean()))
    assert 0.25 < found["recall"] < 1


def test_the_law_of_independent_rows() -> None:
    """From the Gram matrix alone: error 1, like Gaussian rows drawn explicitly."""
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((30, 50)) + 0.5
    gram = rows @ rows.T
    drawn = np.mean([compare(gram, independent(gram, 64, seed))["error"] ** 2 for seed in range(40)])
    explicit = [compare(gram, rows @ rng.standard_normal((50, 64)) / 8)["error"] ** 2 for _ in range(40)]
    assert drawn == pytest.approx(1, abs=0.1)
    assert np.mean(explicit) == pytest.approx(1, abs=0.1)
