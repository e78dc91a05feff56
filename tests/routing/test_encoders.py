"""Requests as vectors: of the right token, the same in any batch, blind to answers and adapters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from adaptinf.config import LoraConfig
from adaptinf.data import Image, Message, Sample
from adaptinf.errors import ConfigError, SampleTooLongError
from adaptinf.models import LanguageModel, add_lora
from adaptinf.routing import HiddenEncoder, PictureEncoder, RequestEncoder, SketchEncoder

from .conftest import request

REQUESTS = [request(f"r{i}", text="the quick brown fox jumps over it"[: 3 + 4 * i]) for i in range(7)]
Llama = Callable[[], LanguageModel]


def encoders(lm: LanguageModel) -> list[RequestEncoder]:
    hidden = [HiddenEncoder(lm), HiddenEncoder(lm, layer=0, pooling="mean"), HiddenEncoder(lm, layer=-1)]
    return [*hidden, SketchEncoder(lm, k=32)]


@pytest.mark.parametrize("layer", ["last", 0, 1, -1])
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_hidden_states_are_those_of_transformers(llama: Llama, layer: int | str, pooling: str) -> None:
    lm = llama()
    made = HiddenEncoder(lm, layer=layer, pooling=pooling, batch_size=3)(REQUESTS)  # pyright: ignore[reportArgumentType]
    for row, sample in zip(made, REQUESTS, strict=True):
        ids = lm.encoder.encode_prompt(sample).input_ids[None]
        with torch.no_grad():
            states = lm.model(input_ids=ids, output_hidden_states=True).hidden_states
        # the list ends with the normed output of the last layer; entry i + 1 is the output of layer i before it
        if layer in (1, -1):
            kept = []
            hook = lm.decoder_layers[1][1].register_forward_hook(lambda _, __, out, kept=kept: kept.append(out))
            lm.model(input_ids=ids)
            hook.remove()
            expected = kept[0] if isinstance(kept[0], torch.Tensor) else kept[0][0]
        else:
            expected = states[-1] if layer == "last" else states[1]
        expected = expected[0, -1] if pooling == "last" else expected[0].mean(0)
        assert torch.allclose(row, expected, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("which", range(4))
def test_vectors_depend_on_the_request_alone(llama: Llama, which: int) -> None:
    encoder = encoders(llama())[which]
    together = encoder(REQUESTS)
    assert together.dtype == torch.float32 and together.shape[0] == 7
    alone = torch.cat([encoder([sample]) for sample in REQUESTS])
    size = float(together.abs().max())
    assert torch.allclose(together, alone, atol=3e-5 * size)
    backwards = encoder(REQUESTS[::-1]).flip(0)
    assert torch.allclose(together, backwards, atol=3e-5 * size)
    answered = encoder([replace(sample, answer="the answer") for sample in REQUESTS])
    assert torch.equal(answered, together)
    assert encoder([]).shape == (0, together.shape[1])
    assert (together[0] - together[1]).abs().max() > 1e-3 * size


@pytest.mark.parametrize("which", range(4))
def test_an_adapter_changes_no_vector(llama: Llama, which: int) -> None:
    plain = encoders(llama())[which]
    lm = llama()
    add_lora(lm, LoraConfig(r=4), seed=0)
    for name, weight in lm.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    adapted = encoders(lm)[which]
    assert torch.equal(adapted(REQUESTS), plain(REQUESTS))
    assert adapted.identity() == plain.identity()
    assert lm.model.active_adapters == ["default"]  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("which", range(4))
def test_a_model_in_training_gives_the_same_vectors(llama: Llama, which: int) -> None:
    """Its dropout must not be seen, and it stays in training."""
    lm = llama()
    plain = encoders(lm)[which](REQUESTS)
    for module in lm.model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    lm.model.train()
    assert torch.equal(encoders(lm)[which](REQUESTS), plain)
    assert all(module.training for module in lm.model.modules())


def test_identities_differ_where_vectors_do(llama: Llama) -> None:
    lm = llama()
    found = [HiddenEncoder(lm), HiddenEncoder(lm, layer=0), HiddenEncoder(lm, pooling="mean"), SketchEncoder(lm)]
    found += [SketchEncoder(lm, k=32), SketchEncoder(lm, layers="last")]
    assert len({tuple(sorted(one.identity().items())) for one in found}) == len(found)


def test_what_cannot_be_encoded(llama: Llama) -> None:
    lm = llama()
    with pytest.raises(ConfigError, match="layer: is 2, the model has 2 layers"):
        HiddenEncoder(lm, layer=2)
    with pytest.raises(ConfigError, match="pooling"):
        HiddenEncoder(lm, pooling="max")  # pyright: ignore[reportArgumentType]
    with pytest.raises(SampleTooLongError, match="long"):
        HiddenEncoder(lm)([request("long", text="x" * 300)])


def test_sketches_are_of_the_prompts_own_gradient(llama: Llama) -> None:
    """Cosines of the sketches estimate cosines of the gradients of the prompt's NLL; with k large they are near."""
    lm = llama()
    made = SketchEncoder(lm, k=4096, layers="last")(REQUESTS)
    layer = lm.decoder_layers[1][1]
    weights = [module.weight for module in layer.modules() if isinstance(module, torch.nn.Linear)]
    gradients = []
    for sample in REQUESTS:
        asked = replace(sample, messages=(Message("user", ("",)),), answer=sample.prompt)
        encoded = lm.encoder.encode(asked)
        loss = lm.answer_nll(lm.encoder.collate([encoded])) / (encoded.labels >= 0).sum()
        gradients.append(torch.cat([part.flatten() for part in torch.autograd.grad(loss, weights)]))
    exact, found = (torch.nn.functional.normalize(rows, dim=1) for rows in (torch.stack(gradients), made))
    assert ((exact @ exact.T) - (found @ found.T)).abs().max() < 5 / 4096**0.5


def test_pictures_are_averaged_and_may_be_missing() -> None:
    first, second = Image(data=b"1"), Image(data=b"2")
    features = {first: torch.arange(12.0).reshape(2, 2, 3), second: torch.full((4, 3), 2.0)}
    encoder = PictureEncoder(features, "given")
    samples = [
        Sample("both", (Message("user", (first, "what", second)),), "", task=""),
        Sample("none", (Message("user", ("what",)),), "", task=""),
        Sample("one", (Message("user", (second,)),), "", task=""),
    ]
    found = encoder(samples)
    assert found[0] == pytest.approx((np.array([4.5, 5.5, 6.5]) + 2) / 2)
    assert found[1].isnan().all() and found[2].tolist() == [2, 2, 2]
    assert encoder(samples[1:2]).isnan().all()
