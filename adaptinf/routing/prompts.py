"""What a language model makes of prompts, which end where the answer begins, in batches of like length."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from adaptinf.data import Sample
from adaptinf.models import Encoded, LanguageModel
from adaptinf.models.language_model import evaluating

Pooling = Literal["last", "mean"]


def frozen(lm: LanguageModel) -> AbstractContextManager[Any]:
    """The base model alone, whatever adapter ``lm`` has."""
    return lm.model.disable_adapter() if hasattr(lm.model, "peft_config") else nullcontext()  # pyright: ignore[reportCallIssue]


@torch.no_grad()
def each_prompt(
    lm: LanguageModel,
    samples: Sequence[Sample],
    batch_size: int,
    run: Callable[[list[Encoded]], Iterable[Tensor]],
) -> list[Tensor]:
    """A tensor of each sample's prompt, in the order of the samples; ``run`` makes those of a batch. Dropout is off."""
    lm.encoder.prepare(samples)
    prompts = [lm.encoder.encode_prompt(sample) for sample in samples]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].input_ids))
    rows: dict[int, Tensor] = {}
    with evaluating(lm.model):
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            rows.update(zip(chosen, run([prompts[i] for i in chosen]), strict=True))
    return [rows[i] for i in range(len(prompts))]


def tokens_inside(prompts: Sequence[Encoded]) -> Tensor:
    """Bool [N, T]: what is no padding of the prompts collated on the right."""
    lengths = torch.tensor([len(prompt.input_ids) for prompt in prompts])
    return torch.arange(int(lengths.max())) < lengths[:, None]


def pool(states: Tensor, prompts: Sequence[Encoded], pooling: Pooling) -> Tensor:
    """float32 [N, d] on the CPU: of the prompts' states [N, T, d] the last token's, or the mean over the tokens."""
    states, inside = states.float().cpu(), tokens_inside(prompts)
    counts = inside.sum(1)
    if pooling == "last":
        return states[torch.arange(len(prompts)), counts - 1]
    return (states.double() * inside[..., None]).sum(1).div(counts[:, None]).float()


def pooled_layers(
    lm: LanguageModel, prompts: Sequence[Encoded], layers: Sequence[nn.Module], pooling: Pooling
) -> Tensor:
    """float32 [N, layers, d]: the layers' outputs at the prompts."""
    rows: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        rows.append(pool(output[0] if isinstance(output, tuple) else output, prompts, pooling))

    hooks = [layer.register_forward_hook(keep) for layer in layers]
    try:
        lm.hidden_states(lm.encoder.collate(prompts))
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(rows, dim=1)
