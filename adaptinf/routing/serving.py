"""Whether vLLM serves a saved adapter, and as what it was trained to be."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptinf.errors import AdaptinfError, ConfigError
from adaptinf.models.lora import CONFIG, read_adapter
from adaptinf.routing.saved_adapter import read_saved

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import peft

_FACTORS = (".lora_A.weight", ".lora_B.weight")


def vllm_problems(directory: Path | str, max_rank: int = 16) -> list[str]:
    """What keeps vLLM from serving a peft directory, or makes it serve something else; empty where nothing does.

    ``max_rank`` is the server's ``--max-lora-rank``. Looked at without the base model are

    - what vLLM refuses: a rank above ``max_rank``, DoRA, ``modules_to_save``, trained biases, and weights that are not
      called ``<module>.lora_A.weight`` or ``<module>.lora_B.weight`` (it takes factors of embeddings for some models
      alone, which counts as refused);
    - what it does not read and would leave out in silence: ``rank_pattern`` and ``alpha_pattern``, where they give a
      module another scaling than ``lora_alpha / r`` (or ``lora_alpha / sqrt(r)``), and everything else that is not
      plain LoRA (:func:`adaptinf.routing.saved_adapter.read_saved`). A merged adapter of unlike ones is such a case.

    Whether the base model has the modules is a question for :meth:`RoutedModel.add_adapter`. Raises ConfigError for an
    impossible ``max_rank``.

    Source: vLLM, in vllm/lora: peft_helper.py (``PEFTHelper``: the settings it reads, ``validate_legal``), utils.py
    (``parse_fine_tuned_lora_name``), lora_model.py (``from_local_checkpoint``, ``from_lora_tensors``), lora_weights.py
    (``from_config``: one scaling for all modules).
    """
    directory = Path(directory)
    if type(max_rank) is not int or max_rank < 1:
        raise ConfigError(f"is {max_rank!r}", item="max_rank", remedy="give the server's --max-lora-rank")
    try:
        config, state = read_adapter(directory)
    except AdaptinfError as error:
        return [error.problem]
    described = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    problems = [*_refused_settings(described, config, max_rank), *_refused_names(state)]
    if problems:
        return problems
    try:
        modules = read_saved(directory).modules
    except AdaptinfError as error:
        return [error.problem]
    scaling = config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r)
    other = [name for name, one in modules.items() if one.scaling != scaling]
    large = [name for name, one in modules.items() if len(one.a) > max_rank]
    if other:
        problems.append(f"rank_pattern or alpha_pattern, which vLLM ignores, changes the scaling of {_some(other)}")
    if large:
        problems.append(f"rank_pattern gives a rank above the server's {max_rank} to {_some(large)}")
    return problems


def _refused_settings(described: Mapping[str, Any], config: peft.LoraConfig, max_rank: int) -> Iterable[str]:
    if missing := sorted({"r", "lora_alpha", "target_modules"} - described.keys()):
        yield f"{CONFIG} lacks {', '.join(missing)}"
    elif type(config.r) is not int or config.r < 1 or not isinstance(config.lora_alpha, (int, float)):
        yield f"r={config.r!r} is no rank, or lora_alpha={config.lora_alpha!r} no number"
    elif config.r > max_rank:
        yield f"has rank {config.r}, the server takes up to {max_rank} (--max-lora-rank)"
    if config.use_dora:
        yield "is DoRA (use_dora), which vLLM does not serve"
    if config.modules_to_save:
        yield f"holds whole modules (modules_to_save={config.modules_to_save}), which vLLM does not take"
    if config.bias != "none":
        yield f"has trained biases (bias={config.bias!r}), which vLLM does not take"


def _refused_names(state: Iterable[str]) -> Iterable[str]:
    if foreign := [name for name in sorted(state) if not name.endswith(_FACTORS)]:
        yield f"has weights that are no factors of a linear layer: {_some(foreign)}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
