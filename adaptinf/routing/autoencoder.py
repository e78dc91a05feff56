"""D-MoLE's autoencoders: a task is where a request is reconstructed best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from adaptinf.data import Sample
from adaptinf.routing.calibration import softmax
from adaptinf.routing.encoders import RequestEncoder
from adaptinf.routing.router import FeatureRouter, encode, require_positive

_HELD = 5
"""Every so many-th sample of a task is kept from its autoencoder and sets its limit."""


class AutoencoderRouter(FeatureRouter[RequestEncoder]):
    """One autoencoder ``D relu(E x + e) + d`` a task, trained on that task's unit vectors alone, whose squared error on
    a request says how strange it is to the task: adding a task touches no other.

    An error is taken over the task's limit, the error that the ``abstain`` share of its held-out samples exceed (every
    fifth; of a task of fewer than five samples all, which were trained on). Probabilities are
    ``softmax(-error / limit)``, novelty the least of these ratios.

    Source: D-MoLE (ICML 2025) and its code: 128 hidden units, mean squared error of L2-normalised vectors, a threshold
    for each task.
    """

    kind: ClassVar[str] = "autoencoder"

    def __init__(
        self,
        encoder: RequestEncoder,
        *,
        hidden: int = 128,
        steps: int = 300,
        learning_rate: float = 1e-3,
        abstain: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(encoder, abstain=abstain)
        require_positive(hidden=hidden, steps=steps, learning_rate=learning_rate)
        self.hidden, self.steps, self.learning_rate, self.seed = hidden, steps, learning_rate, seed
        self._coders: list[list[Tensor]] = []
        self._limits: list[float] = []

    def _learn(self, name: str, samples: Sequence[Sample]) -> None:
        rows = F.normalize(encode(self.encoder, samples), dim=1)
        held = torch.arange(len(rows)) % _HELD == _HELD - 1
        coder = self._train(rows[~held])
        self._limits.append(self._limit(_error(coder, rows[held] if held.any() else rows)))
        self._coders.append(coder)

    def _decide(self, samples: Sequence[Sample]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        rows = F.normalize(encode(self.encoder, samples), dim=1)
        ratios = np.stack([_error(coder, rows) for coder in self._coders], axis=1) / np.array(self._limits)
        return softmax(-ratios), ratios.min(axis=1)

    def _train(self, rows: Tensor) -> list[Tensor]:
        drawn = torch.Generator().manual_seed(self.seed * 1_000_003 + len(self._coders))
        width = rows.shape[1]
        coder = [
            (torch.rand(self.hidden, width, generator=drawn) * 2 - 1) / width**0.5,
            torch.zeros(self.hidden),
            (torch.rand(width, self.hidden, generator=drawn) * 2 - 1) / self.hidden**0.5,
            rows.mean(0).clone(),
        ]
        for weight in coder:
            weight.requires_grad_()
        optimiser = torch.optim.Adam(coder, lr=self.learning_rate)
        with torch.enable_grad():
            for _ in range(self.steps):
                optimiser.zero_grad()
                F.mse_loss(_reconstruct(coder, rows), rows).backward()
                optimiser.step()
        return [weight.detach() for weight in coder]

    def settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("hidden", "steps", "learning_rate", "abstain", "seed")}

    def state(self) -> dict[str, NDArray[Any]]:
        coders = {f"{i}_{j}": part.numpy() for i, coder in enumerate(self._coders) for j, part in enumerate(coder)}
        return coders | {"limits": np.array(self._limits)}

    def restore(self, names: list[str], state: dict[str, NDArray[Any]]) -> None:
        coders = [[torch.from_numpy(state[f"{i}_{j}"]) for j in range(4)] for i in range(len(names))]
        for first, bias, last, offset in coders:
            if (first.T.shape, bias.shape, offset.shape) != (last.shape, first.shape[:1], first.shape[1:]):
                raise ValueError("an autoencoder's weights do not fit each other")
        if len(state["limits"]) != len(names):
            raise ValueError("limits do not fit the names of the tasks")
        self.names, self._coders, self._limits = names, coders, state["limits"].tolist()


def _reconstruct(coder: Sequence[Tensor], rows: Tensor) -> Tensor:
    first, bias, last, offset = coder
    return F.linear(F.linear(rows, first, bias).relu(), last, offset)


@torch.no_grad()
def _error(coder: Sequence[Tensor], rows: Tensor) -> NDArray[np.float64]:
    """Squared distance of each row to its reconstruction."""
    return (_reconstruct(coder, rows) - rows).double().square().sum(1).numpy()
