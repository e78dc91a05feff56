"""Merged adapters against dense sums in float64 and peft's own merging."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from adaptinf.config import LoraConfig
from adaptinf.data import Sample
from adaptinf.errors import ArtefactError
from adaptinf.models import add_lora, load_adapter, save_adapter, trainable_parameters
from adaptinf.routing import OracleRouter, RoutedModel, operators
from adaptinf.routing.merging import Merging, add_to_base, fuse, merge
from adaptinf.routing.saved_adapter import LowRank, read_saved
from adaptinf.store import verify

from .merging_cases import (
    ROUNDING,
    WEIGHTS,
    as_lm,
    deltas,
    loaded,
    logits,
    summed,
    with_sum,
    written_by_peft,
)


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
