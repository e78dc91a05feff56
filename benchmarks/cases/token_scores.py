"""Token scores of a language-model head: against the head's own forward and backward."""

from __future__ import annotations

import functools
from typing import Any

import torch
from adaptinf_kernels import TokenScores, token_scores
from torch import Tensor
from torch.nn import functional as F

from benchmarks import peers
from benchmarks.case import Case, Contender, Outputs, Setting, Workload
from benchmarks.cases.common import cost, implementations, normal
from benchmarks.gate import Close

_CHUNK = 128
"""Tokens whose logits the float64 reference holds at once."""


def scores_by_formula(hidden: Tensor, weight: Tensor, labels: Tensor, dtype: torch.dtype) -> Outputs:
    """The scores spelled out on whole rows of logits in ``dtype``, and the summed loss.

    In float32 a head of low precision is multiplied with probabilities rounded to it, as tensor cores take them.
    """
    rows: dict[str, list[Tensor]] = {name: [] for name in ("nll", "entropy", "el2n_sq", "margin", "grad_hidden")}
    wide = weight.to(dtype)
    for start in range(0, len(hidden), _CHUNK):
        y = labels[start : start + _CHUNK, None]
        logits = hidden[start : start + _CHUNK].to(dtype) @ wide.T
        log_p = logits.log_softmax(1)
        p = log_p.exp()
        others = p.scatter(1, y, 0.0)  # the label's own term is the sum of the others, squared: nothing cancels
        rows["nll"].append(-log_p.gather(1, y)[:, 0])
        rows["entropy"].append(-(p * log_p).sum(1))
        rows["el2n_sq"].append(others.sum(1) ** 2 + (others**2).sum(1))
        rival = logits.scatter(1, y, -torch.inf).amax(1)
        rows["margin"].append(logits.gather(1, y)[:, 0] - rival)
        factor = others.to(weight.dtype).to(dtype) if dtype == torch.float32 else others
        rows["grad_hidden"].append(factor @ wide - others.sum(1, keepdim=True) * wide[y[:, 0]])
    found = {name: torch.cat(parts) for name, parts in rows.items()}
    return {**found, "loss": found["nll"].sum()}


def _named(scores: TokenScores) -> Outputs:
    return scores._asdict()


def _plain(hidden: Tensor, weight: Tensor, labels: Tensor, *, trainable: bool) -> Any:
    """The head in an ordinary training step: all logits, cross-entropy, gradient of the hidden states."""
    hidden, weight = hidden.detach().requires_grad_(), weight.detach().requires_grad_(trainable)

    def run() -> Outputs:
        loss = F.cross_entropy(F.linear(hidden, weight), labels, reduction="sum")
        gradients = torch.autograd.grad(loss, [hidden, weight] if trainable else [hidden])
        return {"loss": loss.detach(), "grad_hidden": gradients[0]}

    return run


def _liger(hidden: Tensor, weight: Tensor, labels: Tensor) -> Any:
    loss_of = peers.liger_cross_entropy(hidden.device)
    hidden, weight = hidden.detach().requires_grad_(), weight.detach()

    def run() -> Outputs:
        loss = loss_of(weight, hidden, labels)
        return {"loss": loss.detach(), "grad_hidden": torch.autograd.grad(loss, hidden)[0]}

    return run


def _build(setting: Setting, *, vocabulary: int, width: int, tokens: int, dtype: torch.dtype) -> Workload:
    if setting.tiny:
        vocabulary, width, tokens = 503, 32, 48
    hidden = normal(setting, tokens, width, dtype=dtype)
    weight = normal(setting, vocabulary, width, dtype=dtype, seed=1) * (2 * width**-0.5)  # logits of a few nats
    labels = torch.randint(vocabulary, (tokens,), generator=torch.Generator().manual_seed(2)).to(setting.device)
    exact = functools.cache(lambda: scores_by_formula(hidden, weight, labels, torch.float64))
    rough = functools.cache(lambda: scores_by_formula(hidden, weight, labels, torch.float32))
    low = functools.cache(lambda: scores_by_formula(hidden, weight, labels, dtype))
    gate = Close(exact, rough, required=["nll", "entropy", "el2n_sq", "margin", "grad_hidden"])
    # A step of the model rounds its logits and gradient to the model's dtype.
    step = Close(exact, low, required=["loss", "grad_hidden"], rounding=dtype)
    flops = 4.0 * tokens * vocabulary * width
    work = cost(flops, [hidden, weight, labels], 4.0 * tokens * (width + 4), dtype)

    def run(impl: str) -> TokenScores:
        return token_scores(hidden, weight, labels, grad=True, impl=impl)

    def same(value: Outputs) -> Outputs:
        return value

    contenders = [
        *implementations(setting, run, gate, _named, cost=work),
        Contender(
            "head, frozen", lambda: _plain(hidden, weight, labels, trainable=False), step, same, cost=work, graph=True
        ),
        Contender("head, trainable", lambda: _plain(hidden, weight, labels, trainable=True), step, same, graph=True),
    ]
    if setting.suite == "gpu":
        contenders.append(Contender("liger", lambda: _liger(hidden, weight, labels), step, same))
    shape = {"T": tokens, "d": width, "V": vocabulary, "dtype": str(dtype).removeprefix("torch.")}
    return Workload(shape, tuple(contenders))


def _case(name: str, rank: int, suite: Any, vocabulary: int, width: int, tokens: int, dtype: torch.dtype) -> Case:
    build = functools.partial(_build, vocabulary=vocabulary, width=width, tokens=tokens, dtype=dtype)
    return Case(name, build, "head, frozen", rank, (suite,), ("native", "head, frozen"))


CASES = (
    _case("token-scores-49k", 25, "cpu", 49_152, 576, 1024, torch.float32),
    _case("token-scores-128k", 26, "cpu", 128_256, 576, 1024, torch.float32),
    _case("token-scores-49k-bf16", 27, "cpu", 49_152, 576, 1024, torch.bfloat16),
    _case("token-scores-128k-wide", 28, "cpu", 128_256, 2048, 256, torch.float32),
    _case("token-scores-llama-1b", 10, "gpu", 128_256, 2048, 8192, torch.bfloat16),
    _case("token-scores-llama-8b", 40, "gpu", 128_256, 4096, 8192, torch.bfloat16),
)
