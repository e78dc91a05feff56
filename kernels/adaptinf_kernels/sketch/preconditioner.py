"""Elementwise transforms of a per-sample gradient, applied before it is sketched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Form = Literal["diagonal", "less", "adam"]

State = tuple[str, Tensor | None, Tensor | None, list[float]]
"""A preconditioner as plain values for the schemas of the ops: form, first, second, ``[b1, b2, eps, n]``."""

NONE: State = ("", None, None, [0.0, 0.0, 0.0, 0.0])
"""No preconditioner."""


@dataclass(frozen=True)
class Preconditioner:
    """What an optimiser would make of the gradient of one sample; make it with one of the class methods.

    With g the sample's gradient, m and v the optimiser's state, all of the parameter's shape, elementwise:

    * ``diagonal``: ``v g``
    * ``less``: ``(b1 m + (1 - b1) g) / sqrt(b2 v + (1 - b2) g^2 + eps)``; eps inside the root, no bias correction
      (Xia et al. 2024; princeton-nlp/LESS).
    * ``adam``: ``m' / (1 - b1^n) / (sqrt(v' / (1 - b2^n)) + eps)`` with ``m' = b1 m + (1 - b1) g``,
      ``v' = b2 v + (1 - b2) g^2`` and n the number of steps after this one: the step that Adam would take.

    A sample without tokens has no gradient and no direction: it gives zeros. Kinds ``sjlt`` and ``rademacher`` take
    preconditioners; ``xorts`` and ``kron`` never form the gradient and cannot.
    """

    form: Form
    first: Tensor | None
    second: Tensor
    beta1: float = 0.0
    beta2: float = 0.0
    eps: float = 0.0
    step: int = 1

    @classmethod
    def diagonal(cls, scale: Tensor) -> Preconditioner:
        """Multiply the gradient by ``scale`` [d_out, d_in]."""
        return cls("diagonal", None, _checked("scale", scale))

    @classmethod
    def less(
        cls, exp_avg: Tensor, exp_avg_sq: Tensor, *, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8
    ) -> Preconditioner:
        """Adam's direction as LESS defines it."""
        return cls("less", _checked("exp_avg", exp_avg), _checked("exp_avg_sq", exp_avg_sq), beta1, beta2, eps)

    @classmethod
    def adam(
        cls,
        exp_avg: Tensor,
        exp_avg_sq: Tensor,
        *,
        step: int,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
    ) -> Preconditioner:
        """Adam's direction; ``step`` >= 1 is the number of the step that this gradient would be."""
        if step < 1:
            raise ValueError(f"step={step} is the number of the step to be taken: at least 1")
        return cls("adam", _checked("exp_avg", exp_avg), _checked("exp_avg_sq", exp_avg_sq), beta1, beta2, eps, step)

    @classmethod
    def of_optimizer(
        cls, optimizer: torch.optim.Optimizer, parameter: Tensor, *, form: Literal["less", "adam"] = "adam"
    ) -> Preconditioner:
        """From the state that a ``torch.optim`` Adam, AdamW or NAdam holds for ``parameter``.

        Raises ValueError where the optimiser does not hold it, or has not stepped yet.
        """
        group = next((g for g in optimizer.param_groups if any(p is parameter for p in g["params"])), None)
        if group is None:
            raise ValueError("the optimizer does not train this parameter")
        state = optimizer.state.get(parameter, {})
        if "exp_avg" not in state or "exp_avg_sq" not in state:
            raise ValueError(
                "the optimizer has no exp_avg and exp_avg_sq of this parameter: is it Adam, has it stepped?"
            )
        settings = {"beta1": group["betas"][0], "beta2": group["betas"][1], "eps": group["eps"]}
        if form == "less":
            return cls.less(state["exp_avg"], state["exp_avg_sq"], **settings)
        return cls.adam(state["exp_avg"], state["exp_avg_sq"], step=int(state["step"]) + 1, **settings)

    @property
    def arguments(self) -> State:
        """The preconditioner as plain values."""
        return self.form, self.first, self.second, [self.beta1, self.beta2, self.eps, float(self.step)]


def direction(gradient: Tensor, state: State) -> Tensor:
    """The preconditioned gradient in the gradient's dtype; the state's tensors broadcast to it."""
    form, first, second, numbers = state
    if not form:
        return gradient
    assert second is not None
    second = second.to(gradient.dtype)
    if form == "diagonal":
        return gradient * second
    assert first is not None
    beta1, beta2, eps, step = numbers
    m = beta1 * first.to(gradient.dtype) + (1 - beta1) * gradient
    v = beta2 * second + (1 - beta2) * gradient.square()
    if form == "less":
        return m / (v + eps).sqrt()
    return m / (1 - beta1**step) / ((v / (1 - beta2**step)).sqrt() + eps)


def check_preconditioner(
    preconditioner: Preconditioner, kind: str, shape: tuple[int, int], device: torch.device
) -> None:
    """Raise ValueError where it does not fit the sketch kind, the parameter's shape or the device."""
    if kind in ("xorts", "kron"):
        raise ValueError(
            f"kind {kind!r} never forms the gradient, so it takes no preconditioner: use sjlt or rademacher"
        )
    for what, tensor in (("first moment", preconditioner.first), ("second moment or scale", preconditioner.second)):
        if tensor is not None and (tuple(tensor.shape) != shape or tensor.device != device):
            raise ValueError(
                f"the preconditioner's {what} must be {list(shape)} on {device}, "
                f"not {list(tensor.shape)} on {tensor.device}"
            )


def _checked(what: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        raise TypeError(f"{what} must be floating point, not {tensor.dtype}")
    return tensor.detach()
