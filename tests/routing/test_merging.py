"""Merged adapters against dense sums in float64, peft's own merging, and what must be refused."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from adaptinf.config import LoraConfig
from adaptinf.data import Sample
from adaptinf.errors import AdapterMismatchError, ArtefactError, ConfigError, IdentityError, NonFiniteError
from adaptinf.models import LanguageModel, add_lora, load_adapter, save_adapter, trainable_parameters
from adaptinf.routing import OracleRouter, RoutedModel, operators
from adaptinf.routing.merging import Merging, add_to_base, fuse, merge
from adaptinf.routing.saved_adapter import LowRank, read_saved
from adaptinf.store import verify

IDS = torch.arange(1, 13).reshape(2, 6)
TARGETS = ("q_proj", "down_proj")
ROUNDING = 2.0**-24
"""Relative error of a number rounded to float32."""


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> LlamaForCausalLM:
    """Three layers, saved, so that adapters can name it."""
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=32, initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
    folder = tmp_path_factory.mktemp("base")
    model.save_pretrained(folder)
    model.name_or_path = str(folder)
    return model


@pytest.fixture
def make(base, tmp_path) -> Callable[..., Path]:
    """``make(name, seed, **settings of peft)``: a random adapter, written by peft."""
    return lambda name, seed=0, **settings: written_by_peft(base, tmp_path / name, seed, **settings)


def written_by_peft(base, folder: Path, seed: int, **settings) -> Path:
    settings = {"r": 4, "lora_alpha": 8, "target_modules": list(TARGETS), "task_type": "CAUSAL_LM"} | settings
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        model = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(**settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def loaded(base, folder: Path) -> peft.PeftModel:
    """As anybody would, in float64."""
    return peft.PeftModel.from_pretrained(copy.deepcopy(base), folder).double().eval()


def deltas(base, folder: Path, absolute: bool = False) -> dict[str, torch.Tensor]:
    """What peft says that the adapter adds to each weight."""
    found = {}
    for name, module in loaded(base, folder).get_base_model().named_modules():
        if isinstance(module, peft.tuners.lora.Linear):
            if absolute:
                for weight in (*module.lora_A.parameters(), *module.lora_B.parameters()):
                    weight.data.abs_()
            found[name] = module.get_delta_weight("default").detach()
    return found


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def with_sum(base, total: dict[str, torch.Tensor]):
    model = copy.deepcopy(base).double()
    with torch.no_grad():
        for name, delta in total.items():
            model.get_submodule(name).weight += delta
    return model


WEIGHTS = [1.0, -0.5, 0.3, 2.0]


@pytest.fixture
def unlike(make) -> list[Path]:
    """Four adapters of unequal rank, alpha and rule of scaling."""
    return [
        make("a", 1, r=4, lora_alpha=8),
        make("b", 2, r=2, lora_alpha=3),
        make("c", 3, r=3, lora_alpha=5, use_rslora=True),
        make("d", 4, r=4, lora_alpha=4, rank_pattern={"down_proj": 2}, alpha_pattern={r"layers\.1\..*q_proj": 9}),
    ]


def summed(base, folders, weights) -> dict[str, torch.Tensor]:
    each = [deltas(base, folder) for folder in folders]
    return {name: sum(w * one[name] for w, one in zip(weights, each, strict=True)) for name in each[0]}


def test_cat_is_the_weighted_sum_whatever_the_scalings(base, unlike, tmp_path):
    result = merge(unlike, tmp_path / "out", Merging("cat", weights=WEIGHTS))
    wanted = summed(base, unlike, WEIGHTS)
    sizes = [deltas(base, folder, absolute=True) for folder in unlike]
    bound = {
        name: 1.01 * ROUNDING * sum(abs(w) * size[name] for w, size in zip(WEIGHTS, sizes, strict=True))
        for name in wanted
    }
    found = deltas(base, result.directory)
    assert found.keys() == wanted.keys()
    assert all(((found[name] - wanted[name]).abs() <= bound[name]).all() for name in wanted)
    assert result.rank == 4 + 2 + 3 + 4
    assert 0 < result.relative_error < 4 * ROUNDING
    assert result.relative_errors.keys() == wanted.keys()

    factors = {
        name: load_file(folder / "adapter_model.safetensors") for name, folder in zip("abcd", unlike, strict=True)
    }
    for ignoring in ("scaling", "weights"):  # would the comparison notice?
        naive = {}
        for name in wanted:
            key = f"base_model.model.{name}.lora_%s.weight"
            naive[name] = sum(
                (w if ignoring == "scaling" else read_saved(tmp_path / one).modules[name].scaling)
                * state[key % "B"].double()
                @ state[key % "A"].double()
                for (one, state), w in zip(factors.items(), WEIGHTS, strict=True)
            )
        assert all(((naive[name] - wanted[name]).abs() > 1000 * bound[name]).any() for name in wanted)

    exact, plain = logits(with_sum(base, wanted)), logits(copy.deepcopy(base).double())
    effect = float((exact - plain).norm())
    assert effect > 1
    assert float((logits(loaded(base, result.directory)) - exact).norm()) < 1000 * ROUNDING * effect
    assert float((logits(with_sum(base, naive)) - exact).norm()) > 0.01 * effect


def test_the_result_has_the_same_bytes_and_a_lineage(unlike, tmp_path):
    for out in ("x", "y"):
        merge(unlike, tmp_path / out, Merging("cat"))
        verify(tmp_path / out)
    files = sorted(file.name for file in (tmp_path / "x").iterdir())
    assert files == ["_SUCCESS", "adapter_config.json", "adapter_model.safetensors", "merge.json"]
    assert all((tmp_path / "x" / name).read_bytes() == (tmp_path / "y" / name).read_bytes() for name in files)
    about = json.loads((tmp_path / "x" / "merge.json").read_text())
    assert about["merging"] == {"method": "cat", "weights": [1.0] * 4, "rank": None, "density": None, "seed": 0}
    assert [Path(one["directory"]).name for one in about["adapters"]] == ["a", "b", "c", "d"]
    assert len({one["sha256"] for one in about["adapters"]}) == 4
    with pytest.raises(ArtefactError, match="exists already"):
        merge(unlike, tmp_path / "x", Merging("cat"))


def test_one_adapter_of_half_precision_keeps_its_values(base, make, tmp_path):
    folder = make("a", 1)
    state = load_file(folder / "adapter_model.safetensors")
    save_file({name: w.bfloat16() for name, w in state.items()}, folder / "adapter_model.safetensors")
    merge([folder], tmp_path / "out", Merging("cat"))  # scaling 2: no rounding at all
    wanted, found = deltas(base, folder), deltas(base, tmp_path / "out")
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("rank", [1, 3, 8, 13])
def test_svd_is_the_nearest_of_its_rank(base, unlike, tmp_path, rank):
    result = merge(unlike, tmp_path / "out", Merging("svd", weights=WEIGHTS, rank=rank))
    wanted, found = summed(base, unlike, WEIGHTS), deltas(base, tmp_path / "out")
    left_out = total = 0.0
    for name, matrix in wanted.items():
        u, s, vh = np.linalg.svd(matrix.numpy(), full_matrices=False)
        nearest = u[:, :rank] * s[:rank] @ vh[:rank]
        # A and B are rounded; their entries are below sqrt(s[0]), so each term of the product errs by 2 s[0] roundings
        assert np.abs(found[name].numpy() - nearest).max() <= 2.1 * ROUNDING * min(rank, 16) * s[0]
        left_out += (s[rank:] ** 2).sum()
        total += (s**2).sum()
        tail = np.sqrt((s[rank:] ** 2).sum() / (s**2).sum())
        assert result.relative_errors[name] == pytest.approx(tail, abs=2 * ROUNDING * min(rank, 16))
    assert result.relative_error == pytest.approx(np.sqrt(left_out / total), abs=2 * ROUNDING * min(rank, 16))
    assert result.rank == rank
    assert (result.relative_error > 0.01) == (rank < 13)


def test_svd_stops_at_the_rank_there_is(base, make, tmp_path):
    narrow = {"rank_pattern": {"down_proj": 1}}
    result = merge([make("a", 1, **narrow), make("b", 2, **narrow)], tmp_path / "out", Merging("svd", rank=5))
    ranks = {name.rpartition(".")[2]: len(one.a) for name, one in read_saved(tmp_path / "out").modules.items()}
    assert ranks == {"q_proj": 5, "down_proj": 2}
    assert result.relative_errors["model.layers.0.mlp.down_proj"] < 4 * ROUNDING
    assert deltas(base, tmp_path / "out").keys() == result.relative_errors.keys()


def test_product_of_sums_is_not_the_sum(base, make, tmp_path):
    folders = [make(f"t{i}", i) for i in range(6)]
    result = merge(folders, tmp_path / "out", Merging("product_of_sums"))
    states = [load_file(folder / "adapter_model.safetensors") for folder in folders]
    found, total = deltas(base, tmp_path / "out"), summed(base, folders, [1.0] * 6)
    for name in found:
        key = f"base_model.model.{name}.lora_%s.weight"
        a, b = (sum(state[key % side].double() for state in states) for side in "AB")
        crossed = sum(
            2 * one[key % "B"].double() @ other[key % "A"].double()
            for i, one in enumerate(states)
            for j, other in enumerate(states)
            if i != j
        )
        bound = 2.1 * ROUNDING * 2 * b.abs() @ a.abs()
        assert ((found[name] - (total[name] + crossed)).abs() <= bound).all()
        error = float((found[name] - total[name]).norm() / total[name].norm())
        assert result.relative_errors[name] == pytest.approx(error, rel=1e-6)
    assert result.relative_error > 1  # the cross terms are more than the sum itself


def by_peft(base, folders, weights, method, **options) -> dict[str, torch.Tensor]:
    model = peft.PeftModel.from_pretrained(copy.deepcopy(base), folders[0], adapter_name="0")
    for i, folder in enumerate(folders[1:], start=1):
        model.load_adapter(folder, adapter_name=str(i))
    names = [str(i) for i in range(len(folders))]
    model.double().add_weighted_adapter(names, weights, "m", combination_type=method, **options)
    layers = model.get_base_model().named_modules()
    return {n: m.get_delta_weight("m").detach() for n, m in layers if isinstance(m, peft.tuners.lora.Linear)}


@pytest.mark.parametrize(("method", "options"), [("linear", {}), ("ties", {"density": 0.5}), ("svd", {"rank": 3})])
def test_as_peft_merges(base, make, tmp_path, method, options):
    folders = [make("a", 1), make("b", 2, lora_alpha=3), make("c", 3, use_rslora=True)]
    weights = [0.7, -0.4, 1.5]
    merge(folders, tmp_path / "out", Merging(method, weights=weights, **options))
    theirs = {"svd_rank" if name == "rank" else name: value for name, value in options.items()}
    wanted, found = by_peft(base, folders, weights, method, **theirs), deltas(base, tmp_path / "out")
    for name in wanted:  # rounded factors and, at peft, weights in float32: three roundings each
        torch.testing.assert_close(found[name], wanted[name], rtol=0, atol=50 * ROUNDING * float(wanted[name].norm()))


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_dare_drops_and_rescales(make, tmp_path, method):
    folders = [make("a", 1, r=16, lora_alpha=32), make("b", 2, r=16, lora_alpha=16)]
    density, weights = 0.3, [1.0, 0.5]
    merge(folders, tmp_path / "out", Merging(method, weights=weights, density=density, seed=7))
    merged = read_saved(tmp_path / "out").modules
    parts = [read_saved(folder).modules for folder in folders]
    kept = count = 0
    for name, one in merged.items():
        for side in (0, 1):
            first, second = (
                part[name][side].double() * (w * part[name].scaling) ** 0.5 / density
                for part, w in zip(parts, weights, strict=True)
            )
            value = one[side].double()
            # which of the two stayed: none, the first, the second, both
            if method == "dare_linear":
                both = first + second
            else:  # values of the sign of the sum of what stayed, before the weights; the mean of two of one sign
                raw = parts[0][name][side] + parts[1][name][side]
                positive = torch.where(raw >= 0, 1, -1)
                agree = [part.sign() == positive for part in (first, second)]
                both = (first * agree[0] + second * agree[1]) / (agree[0].int() + agree[1].int()).clamp(min=1)
            cases = torch.stack([torch.zeros_like(first), first, second, both])
            off = (cases - value).abs()
            assert (off.min(0).values <= 3 * ROUNDING * (first.abs() + second.abs())).all()
            which = off.argmin(0)
            stayed = (which == 1) | (which == 3) if method == "dare_linear" else which > 0
            kept, count = kept + int(stayed.sum()), count + stayed.numel()
    share = density if method == "dare_linear" else 1 - (1 - density) ** 2
    assert abs(kept / count - share) < 5 * (share * (1 - share) / count) ** 0.5


def test_dare_depends_on_its_seed_alone(make, tmp_path):
    """And on the module's name; that the other modules do not matter is in the fused adapters below."""
    folders = [make("a", 1), make("b", 2)]
    for name, seed, noise in (("x", 1, 5), ("y", 1, 6), ("z", 2, 5)):
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        merge(folders, tmp_path / name, Merging("dare_ties", density=0.5, seed=seed))
        assert torch.equal(torch.get_rng_state(), before)
    x, y, z = (load_file(tmp_path / name / "adapter_model.safetensors") for name in "xyz")
    assert all(torch.equal(x[name], y[name]) for name in x)
    assert not any(torch.equal(x[name], z[name]) for name in x)
    dropped = [x[name] == 0 for name in x if "q_proj.lora_A" in name]
    assert len(dropped) == 3 and all(one.any() for one in dropped)
    assert not torch.equal(dropped[0], dropped[1])


def test_operators_hold_far_beyond_float32():
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    for out, into in ((1, 7), (9, 1), (30, 20)):
        parts = [LowRank(draw(3, into), draw(out, 3), 0.3), LowRank(draw(5, into), draw(out, 5), 2.0)]
        wanted = 0.3 * parts[0].b @ parts[0].a - 4.0 * parts[1].b @ parts[1].a
        tight = {"rtol": 0, "atol": 1e-13 * float(wanted.norm())}
        torch.testing.assert_close(operators.sum_of_products(parts, [1.0, -2.0]), wanted, **tight)
        whole = operators.svd(parts, [1.0, -2.0], rank=8)
        torch.testing.assert_close(whole.b @ whole.a, wanted, **tight)
        assert len(whole.a) == min(out, into, 8)
        assert operators.norm(operators.cat(parts, [1.0, -2.0])) == pytest.approx(float(wanted.norm()), rel=1e-13)
        alone = 0.3 * float((parts[0].b @ parts[0].a).norm())
        assert operators.norm(parts[0]) == pytest.approx(alone, rel=1e-13)
        assert operators.norm(parts[0]._replace(scaling=-0.3)) == pytest.approx(alone, rel=1e-13)
        assert operators.norm(operators.cat([*parts, *parts], [1, 1, -1, -1])) < 1e-14 * float(wanted.norm())


def as_lm(model, name="model") -> LanguageModel:
    """What add_to_base reads of a LanguageModel; it has no need of a tokenizer."""
    lm = LanguageModel.__new__(LanguageModel)
    lm.model, lm.name = model, name
    return lm


def test_added_to_the_base(base, unlike):
    model = copy.deepcopy(base)
    add_to_base(as_lm(model), unlike, WEIGHTS)
    wanted = with_sum(base, summed(base, unlike, WEIGHTS))
    for name, weight in wanted.named_parameters():
        found = model.get_parameter(name).double()
        assert ((found - weight).abs() <= 1.01 * ROUNDING * weight.abs() + 1e-14).all(), name


def test_transposed_weights(tmp_path):
    """GPT-2 keeps its weights as [in, out]."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        gpt = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=16)).eval()
    settings = {"target_modules": ["c_attn"], "fan_in_fan_out": True}
    folders = [
        written_by_peft(gpt, tmp_path / "a", 1, **settings),
        written_by_peft(gpt, tmp_path / "b", 2, r=2, **settings),
    ]
    merge(folders, tmp_path / "out", Merging("cat"))
    added = copy.deepcopy(gpt).double()
    add_to_base(as_lm(added), folders)
    both = logits(loaded(gpt, tmp_path / "out"))
    torch.testing.assert_close(logits(added), both, rtol=0, atol=1000 * ROUNDING)
    assert float((both - logits(gpt.double())).norm()) > 0.1


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


@pytest.mark.parametrize("how", [Merging("cat"), Merging("svd", rank=2), Merging("dare_linear", density=0.6)])
@pytest.mark.parametrize("split", [0, 1, 2, 3])
def test_fused_below_and_own_above(base, make, tmp_path, how, split):
    tasks = {"one": make("a", 1), "two": make("b", 2, lora_alpha=4), "three": make("c", 3, use_rslora=True)}
    result = fuse(tasks, tmp_path / "out", how, split=split)
    assert result.fused == list(range(split)) and result.own == list(range(split, 3))
    verify(tmp_path / "out")
    about = json.loads((tmp_path / "out" / "fusion.json").read_text())
    assert (about["tasks"], about["split"], about["fused"]) == (list(tasks), split, result.fused)
    merge(list(tasks.values()), tmp_path / "whole", how)
    whole = deltas(base, tmp_path / "whole")
    for task, folder in tasks.items():
        found, own = deltas(base, result.directories[task]), deltas(base, folder)
        assert found.keys() == own.keys()
        for name in found:
            wanted = whole[name] if int(name.split(".")[2]) < split else own[name]
            torch.testing.assert_close(found[name], wanted, rtol=1e-14, atol=1e-14)
        mine, source = (load_file(one / "adapter_model.safetensors") for one in (result.directories[task], folder))
        upper = [name for name in mine if int(name.split(".")[4]) >= split]
        assert all(torch.equal(mine[name], source[name]) for name in upper)
    lower = [
        {n: w for n, w in load_file(folder / "adapter_model.safetensors").items() if int(n.split(".")[4]) < split}
        for folder in result.directories.values()
    ]
    assert all(torch.equal(lower[0][name], other[name]) for other in lower[1:] for name in lower[0])
    assert (result.relative_error < 4 * ROUNDING) == (how.method == "cat" or split == 0)


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


def test_fused_adapters_are_served(llama, tmp_path):
    """Of unequal rank and scaling by layer, through RoutedModel as through peft."""
    tasks = {}
    for seed, (task, config) in enumerate({"a": LoraConfig(r=4, alpha=8), "b": LoraConfig(r=7, rslora=True)}.items()):
        lm = llama()
        add_lora(lm, config, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in trainable_parameters(lm):
                if "lora_B" in name:
                    parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
        save_adapter(lm, tmp_path / task)
        tasks[task] = tmp_path / task
    fused = fuse(tasks, tmp_path / "fused", Merging("cat"), split=1).directories
    served = RoutedModel(llama(), OracleRouter())
    for task, folder in fused.items():
        served.add_adapter(task, folder)
    samples = [
        Sample.from_instruction(str(i), text, "yes", task="") for i, text in enumerate(["one", "two", "or three"])
    ]
    names = ["a", "b", "a"]
    for sample, task, found in zip(samples, names, served.logits(samples, tasks=names), strict=True):
        lm = llama()
        load_adapter(lm, fused[task])
        with torch.no_grad():
            wanted = lm.logits(lm.encoder.collate([lm.encoder.encode(sample)]))[0]
        assert (found - wanted).abs().max() < 100 * ROUNDING * wanted.abs().max()


@pytest.mark.slow
def test_in_a_fresh_process_with_peft_alone(base, unlike, tmp_path):
    merge(unlike, tmp_path / "merged", Merging("cat", weights=WEIGHTS))
    fuse(dict(zip("abcd", unlike, strict=True)), tmp_path / "fused", Merging("cat"), split=2)
    folders = [tmp_path / "merged", *(tmp_path / "fused" / name for name in "abcd")]
    program = """
import sys, torch, warnings
from peft import AutoPeftModelForCausalLM
from safetensors.torch import save_file
warnings.simplefilter("error", UserWarning)  # of missing or unexpected keys
out, *folders = sys.argv[1:]
ids = torch.arange(1, 13).reshape(2, 6)
with torch.no_grad():
    save_file({str(i): AutoPeftModelForCausalLM.from_pretrained(f).double().eval()(ids).logits.contiguous()
               for i, f in enumerate(folders)}, out)
assert not any(name.startswith("adaptinf") for name in sys.modules)
"""
    out = tmp_path / "logits.safetensors"
    subprocess.run([sys.executable, "-c", program, str(out), *map(str, folders)], check=True, cwd=tmp_path)
    found = load_file(out)
    for i, folder in enumerate(folders):
        assert torch.equal(found[str(i)], logits(loaded(base, folder)))
    assert not torch.allclose(found["1"], found["2"])


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
