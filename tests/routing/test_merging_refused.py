"""Adapters, files and settings that cannot be merged are refused by name, and leave nothing behind."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from adaptinf.errors import AdapterMismatchError, ArtefactError, ConfigError, IdentityError, NonFiniteError
from adaptinf.routing.merging import Merging, add_to_base, fuse, merge

from .merging_cases import (
    as_lm,
    loaded,
    written_by_peft,
)

REFUSED = {
    "DoRA": ({"use_dora": True}, "use_dora"),
    "a bias": ({"bias": "all"}, "bias='all'"),
    "a bias of LoRA's": ({"lora_bias": True}, "lora_bias"),
    "a whole module": ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "PiSSA": ({"init_lora_weights": "pissa"}, "changes the base weights"),
    "an embedding": ({"target_modules": ["embed_tokens", "q_proj"]}, "no factor of a linear layer"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_plain_lora(make, tmp_path, case):
    settings, text = REFUSED[case]
    with pytest.raises(AdapterMismatchError, match=f"strange: [\\s\\S]*{text}"):
        merge([make("a"), make("strange", 1, **settings)], tmp_path / "out", Merging("cat"))
    assert not (tmp_path / "out").exists()


def test_adapters_that_do_not_go_together(base, make, tmp_path):
    first = make("first")
    linear, out = Merging("linear"), tmp_path / "out"
    with pytest.raises(AdapterMismatchError, match=r"targets: [\s\S]*do not share 6 modules, among them \S+down_proj"):
        merge([first, make("targets", target_modules=["q_proj", "up_proj"])], out, linear)
    with pytest.raises(AdapterMismatchError, match=r"rank: [\s\S]*rank 2, in \S+first 4: linear needs equal ranks"):
        merge([first, make("rank", r=2)], out, linear)
    with pytest.raises(
        AdapterMismatchError, match=r"alpha: [\s\S]*scaling 1.0, in \S+first 2.0: product_of_sums has one"
    ):
        merge([first, make("alpha", lora_alpha=4)], out, Merging("product_of_sums"))
    with pytest.raises(AdapterMismatchError, match=r"kind: has task_type None"):
        merge([first, make("kind", task_type=None)], out, linear)
    wide = copy.deepcopy(base)
    for layer in wide.model.layers:
        layer.mlp.down_proj = torch.nn.Linear(20, 16, bias=False)
    with pytest.raises(AdapterMismatchError, match=r"wide: \S+down_proj is \(16, 20\), in \S+first it is \(16, 24\)"):
        merge([first, written_by_peft(wide, tmp_path / "wide", 0)], out, linear)
    other = make("other")
    described = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps(described | {"base_model_name_or_path": "elsewhere"}))
    with pytest.raises(IdentityError, match="other: is an adapter of 'elsewhere'"):
        merge([first, other], out, linear)
    with pytest.raises(ConfigError, match=r"rank: is 9, the exact sum has 8"):
        merge([first, make("second")], out, Merging("svd", rank=9))
    with pytest.raises(ConfigError, match="adapters: is empty"):
        merge([], out, linear)
    for weights in ([1.0], [1.0, float("nan")], [1.0, True], [1.0, "2"]):
        with pytest.raises(ConfigError, match=r"weights: [\s\S]*2 finite numbers"):
            merge([first, make("second")], out, Merging("cat", weights=weights))
    with pytest.raises(NonFiniteError, match="overflows float32"):
        merge([first], out, Merging("cat", weights=[1e39]))
    assert not out.exists()


def test_broken_and_foreign_files(make, tmp_path):
    good, out = make("good"), tmp_path / "out"
    state = load_file(good / "adapter_model.safetensors")
    described = json.loads((good / "adapter_config.json").read_text())
    some = min(state)
    assert some.endswith("lora_A.weight")
    module = some.removeprefix("base_model.model.").partition(".lora_")[0]

    def broken(weights: dict[str, torch.Tensor] | bytes | None = None, **settings) -> Path:
        folder = tmp_path / f"broken-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps(described | settings))
        if isinstance(weights, bytes):
            (folder / "adapter_model.safetensors").write_bytes(weights)
        else:
            save_file(state if weights is None else weights, folder / "adapter_model.safetensors")
        return folder

    whole = (good / "adapter_model.safetensors").read_bytes()
    unreadable = [broken(b""), broken(whole[:-10]), broken(b"\x80\x04" + whole), tmp_path / "nowhere"]
    (pickled := tmp_path / "pickled").mkdir()
    (pickled / "adapter_config.json").write_text(json.dumps(described))
    torch.save(state, pickled / "adapter_model.bin")
    for folder in (*unreadable, pickled):
        with pytest.raises(ArtefactError, match=f"{folder.name}: is no readable adapter"):
            merge([good, folder], out, Merging("cat"))

    changed = lambda value: state | {some: value}  # noqa: E731
    foreign = [
        (broken(peft_type="IA3"), "not a LoRA adapter"),
        (broken({}), "no weights"),
        (broken({name: w for name, w in state.items() if name != some}), f"{module} has no lora_A"),
        (broken(state | {"base_model.model.else.lora_E": torch.zeros(2)}), "else.lora_E"),
        (broken(changed(state[some][0])), "no factor"),
        (broken(changed(state[some].int())), "no factor"),
        (broken(changed(state[some][:2])), r"has r=4, the factors of \S+ are \(16, 4\) and \(2, 24\)"),
        (broken(r=8), r"has r=8, the factors of \S+ are \(16, 4\) and \(4, 24\)"),
        (broken(rank_pattern={"down_proj": 3}), "has rank_pattern={'down_proj': 3}, the factors of"),
        (broken(r=0), "not understood"),
        (broken(lora_alpha="much"), "not understood"),
        (broken(rank_pattern=["q_proj"]), "not understood"),
        (broken(rank_pattern={"(": 4}), "not understood"),
        (broken(target_modules=["q_proj"]), "which its target_modules leave out"),
        (broken(target_modules=None), "not understood|target_modules"),
        (broken(layers_to_transform=[0]), "which its target_modules leave out"),
        (broken(alora_invocation_tokens=[1, 2]), "alora_invocation_tokens"),
    ]
    for folder, text in foreign:
        with pytest.raises(AdapterMismatchError, match=f"{folder.name}: [\\s\\S]*({text})"):
            merge([good, folder], out, Merging("cat"))
    nan, infinite = state[some].clone(), state[some].clone()
    nan[0, 0], infinite[1, 1] = torch.nan, -torch.inf
    for folder in (broken(changed(nan)), broken(changed(infinite)), broken(lora_alpha=float("inf"))):
        with pytest.raises(NonFiniteError, match=f"{folder.name}: "):
            merge([good, folder], out, Merging("cat"))
    assert not out.exists()


def test_what_cannot_be_fused(make, tmp_path):
    tasks = {"one": make("a", 1), "two": make("b", 2)}
    for split in (-1, 4, True, 1.0):
        with pytest.raises(ConfigError, match=r"split: is .*[\s\S]*0 to 3"):
            fuse(tasks, tmp_path / "out", Merging("cat"), split=split)
    for name in ("", "..", "a/b", ".hidden"):
        with pytest.raises(ConfigError, match="cannot name a folder"):
            fuse({name: tasks["one"]}, tmp_path / "out", Merging("cat"), split=1)
    head = make("head", 1, target_modules=["q_proj", "lm_head"])
    with pytest.raises(AdapterMismatchError, match=r"head: [\s\S]*no one list of layers: lm_head, model\.layers"):
        fuse({"one": head}, tmp_path / "out", Merging("cat"), split=1)
    only = make("only", 1, target_modules=["lm_head"])
    with pytest.raises(AdapterMismatchError, match="lm_head is in no layer"):
        fuse({"one": only}, tmp_path / "out", Merging("cat"), split=0)
    assert not (tmp_path / "out").exists()


def test_a_base_that_the_adapters_do_not_fit_stays_as_it_is(base, make):
    lm = as_lm(copy.deepcopy(base))
    before = copy.deepcopy(lm.model.state_dict())
    folder = make("a", 1)
    other = as_lm(GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2)))
    with pytest.raises(AdapterMismatchError, match=r"a: model\.layers\.0[\s\S]*no floating-point linear layer"):
        add_to_base(other, [folder])
    lm.model.model.layers[2].mlp.down_proj = torch.nn.Linear(8, 8)
    with pytest.raises(AdapterMismatchError, match=r"layers\.2\.mlp\.down_proj is \(16, 24\)"):
        add_to_base(lm, [folder])
    lm.model.model.layers[2].mlp.down_proj = lm.model.model.layers[1].mlp.down_proj
    with pytest.raises(AdapterMismatchError, match="tied"):
        add_to_base(lm, [folder])
    after = lm.model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before if "layers.2.mlp.down" not in name)
    with pytest.raises(ConfigError, match="has an adapter"):
        add_to_base(as_lm(loaded(base, folder)), [folder])


def test_settings_that_cannot_be():
    for text, settings in (
        ("choose from cat, svd", {"method": "sum_of_products"}),
        ("rank: is None with svd", {"method": "svd"}),
        ("rank: is 3 with cat", {"method": "cat", "rank": 3}),
        ("rank: is 0", {"method": "svd", "rank": 0}),
        ("rank: is 2.5", {"method": "svd", "rank": 2.5}),
        ("density: is None with ties", {"method": "ties"}),
        ("density: is 0.5 with linear", {"method": "linear", "density": 0.5}),
        ("density: is 0", {"method": "dare_ties", "density": 0}),
        ("density: is 1.5", {"method": "dare_ties", "density": 1.5}),
        ("density: is nan", {"method": "ties", "density": float("nan")}),
        ("seed: is -1", {"method": "cat", "seed": -1}),
        ("weights: product_of_sums has none", {"method": "product_of_sums", "weights": [1.0]}),
    ):
        with pytest.raises(ConfigError, match=text):
            Merging(**settings)
