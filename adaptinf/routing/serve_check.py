"""Whether an adapter answers through a routed model as it does by itself, and whether a server would take it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import peft
import torch
from torch import Tensor

from adaptinf.data import Sample
from adaptinf.routing.model import RoutedModel
from adaptinf.routing.serving import vllm_problems


def serve_problems(
    model: RoutedModel, task: str, directory: Path, requests: Sequence[Sample], *, max_rank: int
) -> list[str]:
    """What is wrong with serving ``directory`` for a task; empty where nothing is.

    Looked at are what vLLM would refuse or leave out (:func:`vllm_problems`), and the logits of ``requests``: those
    through the routed model must be those of the base with the adapter loaded by plain ``PeftModel.from_pretrained``,
    to ``sqrt(eps) max |logit|`` of the model's dtype.
    """
    problems = vllm_problems(directory, max_rank)
    if not requests:
        return [*problems, "no request of its task is there to answer"]
    routed = model.logits(requests, tasks=[task] * len(requests))
    plain = _by_peft(model, directory, requests)
    for request, one, other in zip(requests, routed, plain, strict=True):
        scale = float(other.abs().max())
        error = float((one - other).abs().max())
        if not error <= torch.finfo(model.lm.dtype).eps ** 0.5 * scale:
            problems.append(f"answers {request.id} otherwise than plain peft (logits of {scale:.3g} by {error:.3g})")
    return problems


def _by_peft(model: RoutedModel, directory: Path, requests: Sequence[Sample]) -> list[Tensor]:
    lm, base = model.lm, model.lm.model
    lm.model = peft.PeftModel.from_pretrained(base, str(directory))  # pyright: ignore[reportArgumentType]
    try:
        with torch.no_grad():
            encoded = [lm.encoder.encode(request) for request in requests]
            logits = lm.logits(lm.encoder.collate(encoded))
            return [rows[: len(one.input_ids)] for rows, one in zip(logits, encoded, strict=True)]
    finally:
        lm.model = lm.model.unload()  # pyright: ignore[reportCallIssue]
