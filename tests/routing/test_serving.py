"""Which adapter directories vLLM refuses, and which it would serve as something else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from adaptinf.errors import ConfigError
from adaptinf.routing import vllm_problems
from adaptinf.routing.merging import Merging, merge

Edit = Callable[..., Path]


@pytest.fixture
def edited(saved: dict[str, Path], tmp_path: Path) -> Edit:
    """``edited(weights={name: tensor or None}, without=..., **settings)``: adapter ``a``, of rank 4, changed."""

    def make(weights: dict[str, torch.Tensor | None] | None = None, without: str = "", **settings: object) -> Path:
        folder = tmp_path / f"edited-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        described = json.loads((saved["a"] / "adapter_config.json").read_text()) | settings
        described.pop(without, None)
        (folder / "adapter_config.json").write_text(json.dumps(described))
        state = load_file(saved["a"] / "adapter_model.safetensors") | (weights or {})
        kept = {name: weight for name, weight in state.items() if weight is not None}
        save_file(kept, folder / "adapter_model.safetensors")
        return folder

    return make


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_what_training_writes_is_served(saved: dict[str, Path], name: str) -> None:
    """Of rank 4 with alpha 8, rank 2 on some modules, and rank 7 with rsLoRA."""
    assert vllm_problems(saved[name]) == vllm_problems(str(saved[name])) == []


def test_a_server_takes_ranks_up_to_its_own(saved: dict[str, Path]) -> None:
    assert vllm_problems(saved["c"], max_rank=7) == []
    (problem,) = vllm_problems(saved["c"], max_rank=6)
    assert problem == "has rank 7, the server takes up to 6 (--max-lora-rank)"
    for rank in (0, -1, 8.0, True):
        with pytest.raises(ConfigError, match="max_rank: is"):
            vllm_problems(saved["c"], max_rank=rank)  # pyright: ignore[reportArgumentType]


PREFIX = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"use_dora": True}, "is DoRA"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save=\['lm_head'\]"),
        ({"bias": "lora_only"}, "bias='lora_only'"),
        ({"lora_bias": True}, "lora_bias"),
        ({"init_lora_weights": "pissa"}, "changes the base weights"),
        ({"peft_type": "IA3"}, "is not a LoRA adapter"),
        ({"r": "4"}, "r='4' is no rank"),
        ({"r": 0}, "r=0 is no rank"),
        ({"lora_alpha": None}, "lora_alpha=None no number"),
        ({"without": "r"}, "lacks r"),
        ({"without": "target_modules"}, "lacks target_modules"),
        ({"rank_pattern": {"q_proj": 3}}, "has rank_pattern"),
        ({"alpha_pattern": {"q_proj": 3}}, r"changes the scaling of model\.layers\.0\.self_attn\.q_proj, "),
        ({"weights": {f"{PREFIX}.lora_A.weight": None}}, "has no lora_A"),
        ({"weights": {f"{PREFIX}.lora_A.default.weight": torch.ones(4, 32)}}, r"lora_A\.default\.weight"),
        ({"weights": {f"{PREFIX}.lora_magnitude_vector": torch.ones(32)}}, "lora_magnitude_vector"),
        ({"weights": {f"{PREFIX}.lora_B.bias": torch.ones(32)}}, r"lora_B\.bias"),
        ({"weights": {"base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(4, 9)}}, "lora_embedding_A"),
        ({"weights": {"base_model.model.lm_head.base_layer.weight": torch.ones(9, 4)}}, r"lm_head\.base_layer"),
        ({"weights": {f"{PREFIX}.lora_A.weight": torch.full((4, 32), torch.nan)}}, "NaN"),
        ({"weights": {f"{PREFIX}.lora_A.weight": torch.ones(5, 32)}}, "has r=4"),
    ],
)
def test_each_thing_is_found(edited: Edit, changes: dict, expected: str) -> None:
    (problem,) = vllm_problems(edited(**changes))
    assert re.search(expected, problem), problem


def test_all_refusals_are_named_at_once(edited: Edit) -> None:
    weights = {f"{PREFIX}.lora_B.bias": torch.ones(32)}
    problems = vllm_problems(edited(weights, use_dora=True, bias="all", modules_to_save=["lm_head"]), max_rank=2)
    assert [problem.split()[1] for problem in problems] == ["rank", "DoRA", "whole", "trained", "weights"]


def test_a_pattern_that_changes_no_scaling_is_served(edited: Edit, saved: dict[str, Path]) -> None:
    """vLLM copies factors of any rank up to the server's; alpha 8 of rank 4 is alpha 4 of rank 2."""
    state = load_file(saved["a"] / "adapter_model.safetensors")
    cut = {name: weight[:2] for name, weight in state.items() if "q_proj.lora_A" in name}
    cut |= {name: weight[:, :2].contiguous() for name, weight in state.items() if "q_proj.lora_B" in name}
    assert vllm_problems(edited(cut, rank_pattern={"q_proj": 2}, alpha_pattern={"q_proj": 4})) == []
    (problem,) = vllm_problems(edited(cut, rank_pattern={"q_proj": 2}))
    assert problem.startswith("rank_pattern or alpha_pattern, which vLLM ignores, changes the scaling of")
    grown = {name: torch.zeros(20, 32) for name in cut if "lora_A" in name}
    grown |= {name: torch.zeros(32, 20) for name in cut if "lora_B" in name}
    (problem,) = vllm_problems(edited(grown, rank_pattern={"q_proj": 20}, alpha_pattern={"q_proj": 40}))
    assert problem.startswith("rank_pattern gives a rank above the server's 16 to model.layers.0.self_attn.q_proj")


def test_merged_adapters(saved: dict[str, Path], tmp_path: Path) -> None:
    """The scaling is in the factors, so that every module has the same one."""
    merged = merge([saved["a"], saved["c"]], tmp_path / "merged", Merging("cat"))
    assert merged.rank == 11 and vllm_problems(merged.directory) == []
    assert vllm_problems(merged.directory, max_rank=8) == ["has rank 11, the server takes up to 8 (--max-lora-rank)"]


def test_what_is_no_adapter(tmp_path: Path, saved: dict[str, Path]) -> None:
    assert "is no readable adapter" in vllm_problems(tmp_path / "nowhere")[0]
    folder = tmp_path / "broken"
    folder.mkdir()
    for content in ("", "[]", "{", '{"peft_type": "LORA", "r": []}'):
        (folder / "adapter_config.json").write_text(content)
        (folder / "adapter_model.safetensors").write_bytes((saved["a"] / "adapter_model.safetensors").read_bytes())
        assert len(vllm_problems(folder)) == 1
    (folder / "adapter_config.json").write_bytes((saved["a"] / "adapter_config.json").read_bytes())
    (folder / "adapter_model.safetensors").unlink()
    torch.save({}, folder / "adapter_model.bin")
    assert "is no readable adapter" in vllm_problems(folder)[0]
