"""Features against a microbatch-of-one oracle in float64: autograd on each sample alone, then the explicit sketch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from adaptinf_kernels import Preconditioner, Sketch, project

from adaptinf.capture import Features, extract, find_targets, layer_indices
from adaptinf.config import LoraConfig
from adaptinf.data import Sample
from adaptinf.errors import (
    ConfigError,
    EmptyAnswerError,
    EmptyTaskError,
    IdentityError,
    NonFiniteError,
    SampleTooLongError,
    UnsupportedModelError,
)
from adaptinf.models import LanguageModel, add_lora

SKETCH = Sketch(kind="sjlt", k=64, seed=3)
ALL_SCORES = ("nll", "mean_exp_nll", "entropy", "entropy_all", "el2n", "grad_norm", "nll_without_image")
MakeLm = Callable[..., LanguageModel]


def with_adapter(lm: LanguageModel) -> LanguageModel:
    """A LoRA whose B is not zero, so that A has gradients too."""
    add_lora(lm, LoraConfig(r=4, alpha=8), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in lm.model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return lm


def oracle(lm: LanguageModel, sample: Sample, parameters: str, layers: str = "middle") -> dict[str, np.ndarray]:
    """One sample alone through the model's own logits; gradients by autograd; the scores spelled out."""
    names = find_targets(lm, layers, parameters)
    wanted = {name: parameter for name, parameter in lm.model.named_parameters() if name in names}
    assert set(wanted) == set(names)
    encoded = lm.encoder.encode(sample)
    inputs = lm.encoder.collate([encoded], padding_side="right")
    labels = inputs.pop("labels")[0, 1:]
    for parameter in lm.model.parameters():
        parameter.requires_grad_(False)
    for parameter in wanted.values():
        parameter.requires_grad_(True)
    logits = lm.model(**inputs).logits[0].double()
    answer = labels != -100
    log_p = logits[:-1].log_softmax(-1)
    p = log_p.exp()
    nll = -log_p[answer].gather(1, labels[answer][:, None]).squeeze(1)
    entropy = -(logits.log_softmax(-1) * logits.softmax(-1)).sum(-1)
    onehot = torch.nn.functional.one_hot(labels[answer], logits.shape[-1])
    gradients = torch.autograd.grad(nll.mean(), list(wanted.values()))
    rows = {
        "nll": nll.mean(),
        "mean_exp_nll": nll.exp().mean(),
        "entropy": entropy[:-1][answer].mean(),
        "entropy_all": entropy.mean(),
        "el2n": (onehot - p[answer]).norm(dim=1).mean(),
        "grad_norm": torch.sqrt(sum(((g.double() ** 2).sum() for g in gradients), torch.zeros(()).double())),
        "sketch": sum(
            project(g[None].float(), SKETCH, name=name)[0].double() for name, g in zip(wanted, gradients, strict=True)
        ),
    }
    return {name: value.detach().numpy() for name, value in rows.items()}


def compare(found: Features, exact: list[dict], rough: list[dict]) -> None:
    """Error against float64 at most twice that of an independent float32 pass, plus rounding."""
    for name in exact[0]:
        truth = np.stack([row[name] for row in exact])
        ours = found.sketch if name == "sketch" else found.scores[name]
        assert ours is not None
        peer = np.abs(np.stack([row[name] for row in rough]) - truth).max()
        rounding = 64 * np.finfo(np.float32).eps * max(np.abs(truth).max(), 1.0)
        assert np.abs(ours - truth).max() <= 2 * peer + rounding, name
        assert np.abs(truth).max() > 1e-3, f"{name} is too small to be a test"


@pytest.mark.parametrize("family", ["llama", "llava"])
@pytest.mark.parametrize("parameters", ["lora", "linear"])
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_equals_the_microbatch_of_one(
    make_lm: MakeLm, samples: list[Sample], family: str, parameters: str, packed: bool
) -> None:
    if family == "llama":
        samples = [s for s in samples if not s.images] + [
            Sample.from_instruction("more", "is there a blue square", "no", task="t"),
            Sample.from_instruction("longer", "what is the colour of the circle " * 5, "two red triangles", task="t"),
        ]
    prepare = with_adapter if parameters == "lora" else (lambda lm: lm)
    exact = [oracle(prepare(make_lm(family, torch.float64)), s, parameters) for s in samples]
    lm = prepare(make_lm(family))
    rough = [oracle(lm, s, parameters) for s in samples]
    for order, batch_tokens in (
        (range(len(samples)), 100_000),
        (range(len(samples)), 1),
        (range(len(samples))[::-1], 150),
    ):
        found = extract(
            lm, [samples[i] for i in order], sketch=SKETCH, parameters=parameters, scores=ALL_SCORES,
            batch_tokens=batch_tokens, packed=packed,
        )  # fmt: skip
        assert found.ids == [samples[i].id for i in order]
        compare(found, [exact[i] for i in order], [rough[i] for i in order])


def test_directions_are_those_of_each_sample_alone(make_lm: MakeLm, samples: list[Sample]) -> None:
    """LESS's formula on every sample's own gradient, in float64, by the same sketch as the gradients."""
    lm = with_adapter(make_lm("llava", torch.float64))
    targets = find_targets(lm, "middle", "lora")
    rng = torch.Generator().manual_seed(5)
    moments = {
        name: (torch.randn(p.shape, generator=rng) * 1e-3, torch.rand(p.shape, generator=rng) * 1e-4)
        for name, p in lm.model.named_parameters()
        if "lora" in name  # those of other layers are not used
    }
    assert len(moments) > len(targets)
    given = {name: Preconditioner.less(m, v) for name, (m, v) in moments.items()}
    found = extract(with_adapter(make_lm("llava")), samples, sketch=SKETCH, preconditioners=given, batch_tokens=150)
    plain = extract(with_adapter(make_lm("llava")), samples, sketch=SKETCH, batch_tokens=150)
    assert found.direction is not None and plain.direction is None
    assert np.array_equal(found.sketch, plain.sketch)
    for row, sample in zip(found.direction, samples, strict=True):
        expected = torch.zeros(SKETCH.k, dtype=torch.float64)
        for name, g in gradients_alone(lm, sample, list(targets)).items():
            m, v = (moment.double() for moment in moments[name])
            u = (0.9 * m + 0.1 * g) / (0.999 * v + 0.001 * g.square() + 1e-8).sqrt()
            expected += dense_sketch(name, g.shape) @ u.flatten()
        assert np.abs(row - expected.numpy()).max() <= 2e-5 * expected.norm()
        assert np.abs(row).max() > 1e-3
    lacking = dict(given)
    del lacking[max(targets)]
    with pytest.raises(ConfigError, match="has no preconditioner"):
        extract(with_adapter(make_lm("llava")), samples, sketch=SKETCH, preconditioners=lacking)
    with pytest.raises(ConfigError, match="not sketched"):
        extract(with_adapter(make_lm("llava")), samples, preconditioners=given)
    other = extract(
        with_adapter(make_lm("llava")), samples, sketch=SKETCH,
        preconditioners=given | {max(targets): Preconditioner.less(*moments[max(targets)], beta1=0.8)},
    )  # fmt: skip
    with pytest.raises(IdentityError, match="preconditioners"):
        found.concat(other)


def gradients_alone(lm: LanguageModel, sample: Sample, names: list[str]) -> dict[str, torch.Tensor]:
    """Of one sample's mean NLL over its answer, by autograd."""
    inputs = lm.encoder.collate([lm.encoder.encode(sample)], padding_side="right")
    labels = inputs.pop("labels")
    parameters = {name: parameter.requires_grad_(True) for name, parameter in lm.model.named_parameters()}
    logits = lm.model(**inputs).logits[0, :-1]
    loss = torch.nn.functional.cross_entropy(logits, labels[0, 1:], ignore_index=-100)
    found = torch.autograd.grad(loss, [parameters[name] for name in names])
    return dict(zip(names, found, strict=True))


def dense_sketch(name: str, shape: torch.Size) -> torch.Tensor:
    """The sketch's matrix, float64 [k, numel], column by column."""
    unit = torch.eye(shape.numel()).view(-1, *shape)
    return project(unit, SKETCH, name=name).double().T


@pytest.mark.parametrize("layers", ["first", "last", "all", [0, -1]])
def test_every_choice_of_layers(make_lm: MakeLm, samples: list[Sample], layers: str) -> None:
    exact = [oracle(make_lm("llava", torch.float64), s, "linear", layers) for s in samples]
    lm = make_lm("llava")
    rough = [oracle(lm, s, "linear", layers) for s in samples]
    compare(extract(lm, samples, sketch=SKETCH, layers=layers, parameters="linear", scores=ALL_SCORES), exact, rough)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("layers", ["middle", "whole"])
def test_all_parameters_of_layers_or_of_the_whole_language_model(
    make_lm: MakeLm, samples: list[Sample], layers: str, tied: bool
) -> None:
    def make(dtype: torch.dtype = torch.float32) -> LanguageModel:
        lm = make_lm("llava", dtype)
        if tied:
            lm.base.get_output_embeddings().weight = lm.base.get_input_embeddings().weight
        return lm

    lm = make()
    names = find_targets(lm, layers, "all")
    assert len(names) == (9 if layers == "middle" else 4 * 9 + (2 if tied else 3))
    assert not any("vision" in name or "projector" in name for name in names)
    exact = [oracle(make(torch.float64), s, "all", layers) for s in samples]
    rough = [oracle(lm, s, "all", layers) for s in samples]
    compare(extract(lm, samples, sketch=SKETCH, layers=layers, parameters="all", scores=ALL_SCORES), exact, rough)


def test_targets_by_name_are_those_by_layer(make_lm: MakeLm, samples: list[Sample]) -> None:
    lm = make_lm("llava")
    by_layer = extract(lm, samples, sketch=SKETCH, layers=[2], parameters="linear")
    by_name = extract(lm, samples, sketch=SKETCH, targets="*language_model.layers.2.*proj.weight")
    np.testing.assert_array_equal(by_layer.sketch, by_name.sketch)
    assert by_layer.identity == by_name.identity


def test_parameters_apart(make_lm: MakeLm, samples: list[Sample]) -> None:
    lm = make_lm("llava")
    apart = extract(lm, samples, sketch=SKETCH, layers=[2], parameters="linear", per_parameter=True)
    assert apart.sketch is not None
    for place, name in enumerate(apart.identity["targets"]):
        alone = extract(lm, samples, sketch=SKETCH, targets=[name]).sketch
        np.testing.assert_allclose(apart.sketch[:, place * SKETCH.k :][:, : SKETCH.k], alone, rtol=1e-4, atol=1e-5)
    assert apart.sketch.shape[1] == len(apart.identity["targets"]) * SKETCH.k > 3 * SKETCH.k


def test_texts_that_are_the_same_without_pictures_run_once(
    make_lm: MakeLm, monkeypatch: pytest.MonkeyPatch, samples: list[Sample]
) -> None:
    lm = make_lm("llava")
    assert lm.head is not None  # found out by a probe
    pictures = [sample.images for sample in samples if sample.images]
    alike = [Sample.from_instruction(f"a{i}", "is it", "no", images=p, task="t") for i, p in enumerate(pictures)]
    honest, sizes = type(lm).hidden_states, []

    def counted(self: LanguageModel, batch: dict) -> torch.Tensor:
        sizes.append((len(batch["input_ids"]), "pixel_values" in batch))
        return honest(self, batch)

    monkeypatch.setattr(type(lm), "hidden_states", counted)
    found = extract(lm, alike, scores=("nll_without_image",))
    assert sum(size for size, seen in sizes if not seen) == 1
    assert len(set(found.scores["nll_without_image"])) == 1 and len(set(found.scores["nll"])) > 1


def test_sum_loss_is_mean_loss_times_the_answer_length(make_lm: MakeLm, samples: list[Sample]) -> None:
    lm = make_lm("llava")
    mean = extract(lm, samples, sketch=SKETCH, parameters="linear")
    total = extract(lm, samples, sketch=SKETCH, parameters="linear", loss="sum")
    np.testing.assert_allclose(
        total.sketch, mean.sketch * mean.scores["n_answer_tokens"][:, None], rtol=1e-4, atol=1e-5
    )


def test_backward_stops_at_the_lowest_target_and_forms_no_weight_gradient(
    make_lm: MakeLm, samples: list[Sample]
) -> None:
    lm = make_lm("llava")
    reached: list[str] = []
    for name, layer in lm.decoder_layers:
        layer.register_full_backward_hook(lambda m, i, o, name=name: reached.append(name))
    before = {name: (p.requires_grad, p.clone()) for name, p in lm.model.named_parameters()}
    extract(lm, samples, sketch=SKETCH, layers="middle", parameters="linear")
    assert set(reached) == {name for name, _ in lm.decoder_layers[1:]}  # layer 1 of 4 is the middle one
    for name, parameter in lm.model.named_parameters():
        assert parameter.grad is None
        assert parameter.requires_grad == before[name][0]
        torch.testing.assert_close(parameter, before[name][1], rtol=0, atol=0)


def test_training_mode_and_dropout_come_back(make_lm: MakeLm, samples: list[Sample]) -> None:
    lm = make_lm("llama")
    add_lora(lm, LoraConfig(r=2, dropout=0.5), seed=0)
    lm.model.train()
    one = extract(lm, samples[:1], sketch=SKETCH)
    two = extract(lm, samples[:1], sketch=SKETCH)
    np.testing.assert_array_equal(one.sketch, two.sketch)  # dropout was off
    assert all(module.training for module in lm.model.modules())


@pytest.mark.parametrize("mode", ["remove", "zero"])
def test_image_grounding_runs_without_the_picture(make_lm: MakeLm, samples: list[Sample], mode: str) -> None:
    lm = make_lm("llava")
    found = extract(lm, samples, sketch=None, scores=("nll", "nll_without_image"), image_grounding=mode)
    for i, sample in enumerate(samples):
        value = found.scores["nll_without_image"][i]
        if not sample.images:
            assert np.isnan(value) if mode == "remove" else value == found.scores["nll"][i]
            continue
        if mode == "remove":
            text = Sample.from_instruction(sample.id, sample.prompt, sample.answer, task="t")
            expected = oracle(lm, text, "linear")["nll"]
            np.testing.assert_allclose(value, expected, rtol=1e-5)
        assert value != found.scores["nll"][i]


def test_hidden_means_of_a_layer_and_of_the_head(make_lm: MakeLm, samples: list[Sample]) -> None:
    lm = make_lm("llava")
    for hidden in ("last", 1):
        found = extract(lm, samples, sketch=None, scores=("nll",), hidden=hidden)
        for i, sample in enumerate(samples):
            inputs = lm.encoder.collate([lm.encoder.encode(sample)], padding_side="right")
            inputs.pop("labels")
            states = lm.model(**inputs, output_hidden_states=True).hidden_states
            expected = (states[-1] if hidden == "last" else states[hidden + 1])[0].double().mean(0)
            np.testing.assert_allclose(found.hidden[i], expected.detach(), atol=2e-5)


def test_without_a_head_the_models_own_logits_are_used(make_lm: MakeLm, samples: list[Sample]) -> None:
    lm, other = make_lm("llava"), make_lm("llava")
    other.head = None
    a = extract(lm, samples, sketch=SKETCH, parameters="linear", scores=ALL_SCORES)
    b = extract(other, samples, sketch=SKETCH, parameters="linear", scores=ALL_SCORES)
    np.testing.assert_allclose(a.sketch, b.sketch, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(a.hidden, b.hidden, rtol=1e-4, atol=1e-5)
    for name in ALL_SCORES:
        np.testing.assert_allclose(a.scores[name], b.scores[name], rtol=1e-4, atol=1e-5)


def test_bad_requests_name_what_is_wrong(make_lm: MakeLm, samples: list[Sample]) -> None:
    lm = make_lm("llama")
    with pytest.raises(UnsupportedModelError, match="has no LoRA adapter"):
        extract(lm, samples[:1], sketch=SKETCH)
    with pytest.raises(ConfigError, match="perplexity: is no score"):
        extract(lm, samples[:1], scores=("perplexity",))
    with pytest.raises(EmptyTaskError):
        extract(lm, [])
    with pytest.raises(ConfigError, match="4 decoder layers"):
        layer_indices([7], 4)
    blank = Sample.from_instruction("blank", "hello", "", task="t")
    long = Sample.from_instruction("long", "circle " * 800, "yes", task="t")
    with pytest.raises(EmptyAnswerError, match="blank"):
        extract(lm, [samples[0], blank], scores=("nll",))
    with pytest.raises(SampleTooLongError, match="long"):
        extract(lm, [samples[0], long], scores=("nll",))
    found = extract(lm, [blank, samples[0], long], scores=("nll",), on_error="drop")
    assert found.ids == ["s0"] and [id for id, _ in found.dropped] == ["blank", "long"]


def test_non_finite_policies(make_lm: MakeLm, samples: list[Sample]) -> None:
    lm = make_lm("llava")
    bad = samples[1]  # the only token that no other sample has
    encoded = lm.encoder.encode(Sample.from_instruction("x", "ß", "yes", task="t"))
    odd = Sample.from_instruction("odd", "ß", "yes", task="t")
    others = [s for s in samples if "ß" not in s.prompt + s.answer]
    only = set(encoded.input_ids.tolist()) - {t for s in others for t in lm.encoder.encode(s).input_ids.tolist()}
    assert only and bad
    with torch.no_grad():
        lm.model.get_input_embeddings().weight[list(only)] = float("nan")
    mixed = [*others, odd]
    with pytest.raises(NonFiniteError, match="odd"):
        extract(lm, mixed, sketch=SKETCH, parameters="linear")
    dropped = extract(lm, mixed, sketch=SKETCH, parameters="linear", on_nonfinite="drop")
    assert dropped.ids == [s.id for s in others] and dropped.dropped == [("odd", "non-finite features")]
    zeroed = extract(lm, mixed, sketch=SKETCH, parameters="linear", on_nonfinite="zero")
    assert zeroed.zeroed == ["odd"] and not zeroed.sketch[-1].any() and zeroed.sketch[0].any()


def test_out_of_memory_halves_the_batch_and_names_the_sample_at_one(
    make_lm: MakeLm, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = make_lm("llava")
    whole = extract(lm, samples, scores=("nll",))
    honest, sizes = type(lm).hidden_states, []

    def limited(self: LanguageModel, batch: dict) -> torch.Tensor:
        sizes.append(len(batch["input_ids"]))
        if sizes[-1] > limit:
            raise torch.OutOfMemoryError("pretended")
        return honest(self, batch)

    monkeypatch.setattr(type(lm), "hidden_states", limited)
    limit = 2
    halved = extract(lm, samples, scores=("nll",), batch_tokens=100_000)
    np.testing.assert_allclose(halved.scores["nll"], whole.scores["nll"], rtol=1e-5)
    assert max(sizes) == len(samples) and min(sizes) >= 1
    limit = 0
    with pytest.raises(SampleTooLongError, match=r"s\d: its \d+ tokens do not fit in memory even alone"):
        extract(lm, samples, scores=("nll",))


def test_features_round_trip_and_never_mix(make_lm: MakeLm, samples: list[Sample], tmp_path) -> None:
    lm = make_lm("llava")
    one = extract(lm, samples[:4], sketch=SKETCH, parameters="linear")
    one.save(tmp_path)
    back = Features.load(tmp_path)
    assert back.ids == one.ids and back.identity == one.identity and back.flops == one.flops > 0
    np.testing.assert_array_equal(back.sketch, one.sketch)
    np.testing.assert_array_equal(back.scores["nll_without_image"], one.scores["nll_without_image"])
    two = extract(lm, samples[4:], sketch=SKETCH, parameters="linear")
    both = back.concat(two)
    np.testing.assert_array_equal(both.sketch, np.concatenate([one.sketch, two.sketch]))
    other = extract(lm, samples[4:], sketch=Sketch(kind="sjlt", k=64, seed=4), parameters="linear")
    with pytest.raises(IdentityError, match="sketch"):
        one.concat(other)
    with pytest.raises(IdentityError, match="sketch"):
        one.then(other)
    with torch.no_grad():
        next(lm.model.parameters()).add_(0.01)
    later = extract(lm, samples[4:], sketch=SKETCH, parameters="linear")
    with pytest.raises(IdentityError, match="model"):
        one.concat(later)
    kept = {samples[3].id, samples[0].id}
    whole = one.take(kept).then(later)
    assert whole.ids == [samples[0].id, samples[3].id, *later.ids] and whole.flops == later.flops
    np.testing.assert_array_equal(whole.sketch, np.concatenate([one.sketch[[0, 3]], later.sketch]))
    assert len({time["weights"] for time in whole.identity["arrivals"]}) == 2


def test_pictures_cost_flops(make_lm: MakeLm, samples: list[Sample]) -> None:
    lm = make_lm("llava")
    text = [s for s in samples if not s.images]
    seen = extract(lm, [s for s in samples if s.images], scores=("nll",)).flops
    assert extract(lm, text, scores=("nll",)).flops < lm.flops([512] * len(text))
    tokens = [len(lm.encoder.encode(s).input_ids) for s in samples if s.images]
    assert seen > lm.flops(tokens)  # the language model alone, without the vision tower
