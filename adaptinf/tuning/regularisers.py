"""Penalties that keep an adapter near what earlier steps learned: L2, elastic weights (EWC), orthogonal adapters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from adaptinf.config import RunConfig, TrainConfig
from adaptinf.errors import ConfigError
from adaptinf.models import LanguageModel, read_adapter, trainable_parameters
from adaptinf.tuning.fisher import load_fisher

Regulariser = Callable[[], Tensor]
"""The penalty at the current weights, a float32 scalar with its graph; added once to each step's loss."""

_LINEAGE = {"l2": "continue", "ewc": "continue", "olora": "merge"}
_APART = {"multitask": "trains once", "switch": "trains every adapter from the base"}


@dataclass(frozen=True)
class Quadratic:
    """``weight / 2 * sum_i F_i (theta_i - theta*_i)^2`` over the adapter's parameters.

    ``terms``: parameter, theta* (what the step before left) and F of the same shape; None is F = 1, plain L2. For EWC F
    is the Fisher information of all earlier steps, summed, and there is one theta*: their losses are expanded around
    the latest weights (online EWC without decay). With a term of its own for every earlier task, as first published,
    old tasks pull towards weights that later ones have left.

    Source: Kirkpatrick et al. 2017 (arXiv:1612.00796), equation 3; Huszar 2018 (arXiv:1712.03847); Schwarz et al. 2018
    (arXiv:1805.06370), online EWC with gamma = 1.
    """

    weight: float
    terms: Sequence[tuple[nn.Parameter, Tensor, Tensor | None]]

    def __call__(self) -> Tensor:
        distances = [
            (moved.square() if fisher is None else fisher * moved.square()).sum()
            for parameter, start, fisher in self.terms
            for moved in (parameter.float() - start,)
        ]
        return 0.5 * self.weight * torch.stack(distances).sum()


@dataclass(frozen=True)
class Orthogonality:
    """``weight`` times the mean over modules of ``sum_ij |<a_i, b_j>|``: a_i the rows of the new adapter's A [r, in],
    b_j those of all earlier adapters' A [(t - 1) r, in].

    A's rows are the directions of the input that an adapter answers to; B, zero when a step begins, would give a
    penalty of zero. The published code sums over modules as well, so that the penalty grows with the model (values of
    1e3 to 1e4 are reported) and drowns the loss. The mean does not; the published weight is this one divided by the
    number of modules.

    Source: O-LoRA (Wang et al. 2023, arXiv:2310.14152), cmnfriend/O-LoRA, lambda_1; lambda_2 is 0 there.
    """

    weight: float
    pairs: Sequence[tuple[nn.Parameter, Tensor]]

    def __call__(self) -> Tensor:
        overlaps = [(new.float() @ earlier.T).abs().sum() for new, earlier in self.pairs]
        return self.weight * torch.stack(overlaps).mean()


def check_regulariser(config: RunConfig) -> None:
    """Raises ConfigError where the run's adapters do not follow each other as the regulariser needs."""
    training = config.training
    needed = _LINEAGE.get(training.regulariser, training.carry_lora)
    if training.carry_lora != needed:
        raise ConfigError(
            f"{training.regulariser} needs {needed}, not {training.carry_lora}: "
            + ("it holds one adapter near what it was" if needed == "continue" else "earlier adapters are frozen"),
            item="training.carry_lora",
            remedy=f"set it to {needed}, or training.regulariser to none",
        )
    if training.regulariser != "none" and config.strategy in _APART:
        raise ConfigError(
            f"has nothing to keep in {config.strategy}, which {_APART[config.strategy]}",
            item="training.regulariser",
            remedy="leave it out",
        )


def make_regulariser(config: TrainConfig, lm: LanguageModel, earlier: Sequence[Path]) -> Regulariser | None:
    """The penalty of a step that starts from ``lm``; ``earlier``: the training artefacts of the steps before, in order.

    None where the settings have no regulariser, and at the first step, which has nothing to keep. Raises ArtefactError
    where an artefact lacks what was stored for it.
    """
    if config.regulariser == "none" or not earlier:
        return None
    parameters = trainable_parameters(lm)
    if config.regulariser == "olora":
        frozen = [read_adapter(directory / "adapter")[1] for directory in earlier]
        pairs = []
        for name, parameter in parameters:
            if ".lora_A." in name:
                rows = torch.cat([state[name.replace(".lora_A.default.", ".lora_A.")].float() for state in frozen])
                pairs.append((parameter, rows.to(parameter.device)))
        return Orthogonality(config.regulariser_weight, pairs)
    fisher = load_fisher(earlier[-1], lm.device) if config.regulariser == "ewc" else {}
    terms = [(one, one.detach().float().clone(), fisher[name] if fisher else None) for name, one in parameters]
    return Quadratic(config.regulariser_weight, terms)
