"""Arrow: a router made from the adapters alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adaptinf.data import Sample
from adaptinf.errors import AdapterMismatchError, ConfigError, UnsupportedModelError
from adaptinf.models import Encoded, LanguageModel
from adaptinf.routing import operators
from adaptinf.routing.adapters import Factors, load_factors
from adaptinf.routing.calibration import softmax
from adaptinf.routing.encoders import base_identity
from adaptinf.routing.prompts import each_prompt, frozen, tokens_inside
from adaptinf.routing.router import FeatureRouter, finite, require_positive
from adaptinf.routing.saved_adapter import LowRank


class ModuleInputs:
    """What the modules of a frozen language model are given at each token of a prompt, adapters switched off."""

    def __init__(self, lm: LanguageModel, *, batch_size: int = 32) -> None:
        self.lm, self.batch_size, self.flops = lm, batch_size, 0.0

    def alignment(self, samples: Sequence[Sample], directions: Mapping[str, Tensor]) -> Tensor:
        """float64 [N, T] on the CPU: ``|cos(x, p_t)|``, averaged over the prompt's tokens and over the modules.

        ``directions``: by the module's name, float32 [T, in] of unit rows, or rows of zeros, whose cosine is 0. Raises
        UnsupportedModelError where a module is not given the prompt's tokens one by one.
        """
        placed = {name: rows.to(self.lm.device) for name, rows in directions.items()}
        with frozen(self.lm):
            found = each_prompt(self.lm, samples, self.batch_size, lambda prompts: self._aligned(prompts, placed))
        return torch.stack(found)

    def identity(self) -> dict[str, str]:
        return {"encoder": "module inputs", **base_identity(self.lm)}

    def _aligned(self, prompts: Sequence[Encoded], directions: Mapping[str, Tensor]) -> Tensor:
        self.flops += self.lm.flops([len(one.input_ids) for one in prompts])
        inside = tokens_inside(prompts)
        means: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
                if args[0].shape[:-1].numel() != inside.numel() or name in means:
                    raise self._refused(name)
                x = args[0].float().reshape(*inside.shape, -1)  # some models hand over all tokens in a row
                lengths = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
                cosines = ((x / lengths) @ directions[name].T).abs().double().cpu() * inside[..., None]
                means[name] = cosines.sum(1) / inside.sum(1, keepdim=True)

            return hook

        hooks = [self.lm.base.get_submodule(name).register_forward_pre_hook(keep(name)) for name in directions]
        try:
            self.lm.hidden_states(self.lm.encoder.collate(prompts))
        finally:
            for one in hooks:
                one.remove()
        for name in directions.keys() - means.keys():
            raise self._refused(name)
        return torch.stack([means[name] for name in directions]).mean(0)

    def _refused(self, name: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"{name} is not given the tokens of a prompt, each of them once",
            item=self.lm.name,
            remedy="route by adapters of the decoder layers' linear modules, or by another router",
        )


class ArrowRouter(FeatureRouter[ModuleInputs]):
    """``softmax(s / temperature)`` with ``s_t`` the mean of ``|cos(x, p_t)|`` over a request's tokens and the modules.

    ``p_t`` is a module's prototype of task t: the right singular vector of the largest singular value of ``B A``, the
    unit input to which the task's adapter answers most (zeros for an adapter that adds nothing); x is the module's
    input in the base model. The sign of a singular vector means nothing, hence the absolute value. The cosine makes
    modules count the same however large their inputs are.

    A task is learned from its adapter, a peft directory that ``adapters`` names and that is read when the task is
    added; the mapping may grow. All adapters must have the same modules, since cosines of different modules cannot be
    compared; ranks and scalings may differ. Samples are needed with ``abstain`` alone: novelty is the least
    ``(1 - s_t)`` over its limit for that task, which the ``abstain`` share of them exceed; without samples it is 1.

    Raises AdapterMismatchError, ArtefactError or NonFiniteError for an adapter that cannot be read or does not fit.

    Source: Ostapenko et al. 2024 (arXiv:2405.11157), which routes every token in every module by the
    scores that are averaged here into one decision a request; peft's arrow.py finds the vectors by power iteration and
    multiplies with x as it is.
    """

    kind: ClassVar[str] = "arrow"

    def __init__(
        self,
        encoder: ModuleInputs,
        adapters: Mapping[str, Path | str] | None = None,
        *,
        temperature: float = 0.1,
        abstain: float | None = None,
    ) -> None:
        super().__init__(encoder, abstain=abstain)
        require_positive(temperature=temperature)
        self.adapters = {} if adapters is None else adapters
        self.temperature = temperature
        self.learns_from_samples = abstain is not None
        self._prototypes: dict[str, Tensor] = {}
        self._limits: list[float] = []

    def _learn(self, name: str, samples: Sequence[Sample]) -> None:
        if name not in self.adapters:
            raise ConfigError("has no adapter", item=name, remedy="name its directory in the router's adapters")
        adapter = load_factors(self.encoder.lm, Path(self.adapters[name]))
        found = {module: prototype(factors)[None] for module, factors in sorted(adapter.factors.items())}
        if differing := sorted(found.keys() ^ (self._prototypes.keys() or found.keys())):
            raise AdapterMismatchError(
                f"it and the adapters before do not share {len(differing)} modules, among them {differing[0]}",
                item=str(adapter.directory),
                remedy="route between adapters that were trained with the same target modules",
            )
        limit = 1.0
        if self.abstain is not None:
            limit = self._limit(np.maximum(0, 1 - self._alignment(samples, found)[:, 0]))
        before = self._prototypes or {module: row[:0] for module, row in found.items()}
        self._prototypes = {module: torch.cat([before[module], row]) for module, row in found.items()}
        self._limits.append(limit)

    def _decide(self, samples: Sequence[Sample]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        alignment = self._alignment(samples, self._prototypes)
        novelty = np.maximum(0, 1 - alignment) / np.array(self._limits)
        return softmax(alignment / self.temperature), novelty.min(axis=1)

    def _alignment(self, samples: Sequence[Sample], prototypes: Mapping[str, Tensor]) -> NDArray[np.float64]:
        return finite(self.encoder.alignment(samples, prototypes), samples).numpy()

    def settings(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "abstain": self.abstain}

    def state(self) -> dict[str, NDArray[Any]]:
        rows = {f"prototypes.{module}": rows.numpy() for module, rows in self._prototypes.items()}
        return rows | {"limits": np.array(self._limits)}

    def restore(self, names: list[str], state: dict[str, NDArray[Any]]) -> None:
        rows = {key.removeprefix("prototypes."): torch.tensor(one) for key, one in state.items() if key != "limits"}
        if len(state["limits"]) != len(names) or any(len(one) != len(names) for one in rows.values()):
            raise ValueError("prototypes do not fit the names of the tasks")
        self.names, self._prototypes, self._limits = names, rows, state["limits"].tolist()


def prototype(factors: Factors) -> Tensor:
    """float32 [in]: the right singular vector of the largest singular value of ``B A``, zeros where that is 0.

    From the QR decompositions of the factors and the SVD of the small matrix between them, in float64: exact to
    rounding, B A is never formed. Its sign is arbitrary, and so is the vector where the two largest values are equal.
    """
    direction = operators.svd([LowRank(factors.a.T, factors.b.T, 1.0)], [1.0], 1).a[0]
    length = torch.linalg.vector_norm(direction)
    return (direction / length if length > 0 else direction).float()
