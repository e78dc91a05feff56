"""DETAIL: what each demonstration in a prompt does to the answer, by influence functions of a ridge regression."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from adaptinf_kernels import Sketch, project
from torch import Tensor, nn

from adaptinf.capture import layer_indices
from adaptinf.data import Sample
from adaptinf.errors import ConfigError, DataError, NonFiniteError
from adaptinf.influence.ihvp import exact, ridge
from adaptinf.models import LanguageModel

CURATION, NOISE = 1.0, 1e-9
"""DETAIL's alphas: to choose and order demonstrations by ``test``, to find wrong labels by ``itself``."""


@dataclass(frozen=True)
class DemonstrationInfluence:
    """float64. ``test`` [q, n]: of demonstration i on query j; positive where more of the demonstration would lower the
    query's loss. ``itself`` [n]: of a demonstration on its own loss, large for one that the others contradict."""

    test: Tensor
    itself: Tensor


def demonstration_influence(
    states: Tensor,
    labels: Tensor,
    query_states: Tensor,
    query_labels: Tensor,
    *,
    alpha: float,
    penalty: bool = True,
    projection: Sketch | None = None,
) -> DemonstrationInfluence:
    """In-context learning seen as the ridge regression of labels on hidden states, and each row's influence in it.

    With X [n, d] the ``states`` at the demonstrations' label positions, Y [n, c] their ``labels`` (one-hot, or any
    numbers), and x [q, d], y [q, c] those of the queries::

        w = X^T (X X^T + alpha I)^-1 Y        K = X^T X
        grad_i = x_i (x_i^T w - y_i) + alpha w, [d, c]; grad_test_j likewise
        test[j, i] = <grad_test_j, (K + alpha I)^-1 grad_i>
        itself[i] = <grad_i, (K + alpha I)^-1 grad_i>

    So ``-test[j, i]`` is the derivative of ``1/2 |x_j^T w - y_j|^2 + alpha/2 |w|^2`` by the weight of the same loss of
    demonstration i. With ``penalty=False`` the gradients are ``x_i (x_i^T w - y_i)`` alone, as leaving a demonstration
    out leaves the penalty where it is. It matters most for ``itself`` of n <= d demonstrations at a small alpha: with
    ``G = (X X^T + alpha I)^-1`` and ``A = G Y`` it is ``alpha^2 |A_i|^2`` (``|A_i|^2 / (2 G_ii^2)`` is the loss of a
    demonstration that was left out), but ``alpha^2 (|A|^2 - |A_i|^2)`` with the penalty: the other way round.

    ``projection`` sketches the states first, which keeps inner products in the mean (its k is DETAIL's
    d', 1,000 there).

    Computed in float64, in the smaller of n and d. No gradient [d, c] is formed. The residuals of n <= d demonstrations
    are ``-alpha (X X^T + alpha I)^-1 Y``: at ``alpha = 1e-9`` a subtraction would leave few of their digits.

    Raises ConfigError where shapes do not fit or alpha is not positive, NonFiniteError where a state is not finite.

    Source: Zhou et al. 2024 (NeurIPS, arXiv:2405.14899); BobbyZhouZijian/detail_release, ``src/infl_torch.py``.
    """
    _check(states, labels, query_states, query_labels, alpha)
    x, q = (rows.double() if projection is None else _projected(rows, projection) for rows in (states, query_states))
    y, targets = labels.double(), query_labels.double()
    if len(x) <= x.shape[1]:
        dual = exact(x @ x.T, y.T, damping=alpha).T
        w, residuals = x.T @ dual, -alpha * dual
    else:
        w = ridge(x, y.T @ x, damping=alpha).T
        residuals = x @ w - y
    share = alpha if penalty else 0.0
    solved = ridge(x, torch.cat([x, w.T]), damping=alpha)
    solved_x, solved_w = solved[: len(x)], solved[len(x) :].T  # (K + alpha I)^-1 of every x_i, and of w

    def influence(rows: Tensor, errors: Tensor) -> Tensor:
        """<rows_j errors_j + share w, (K + alpha I)^-1 (x_i residuals_i + share w)> for all j and i."""
        first = (rows @ solved_x.T) * (errors @ residuals.T)
        second = share * ((rows @ solved_w) * errors).sum(1)
        third = share * ((solved_x @ w) * residuals).sum(1)
        return first + second[:, None] + third + share**2 * (w * solved_w).sum()

    return DemonstrationInfluence(influence(q, q @ w - targets), influence(x, residuals).diagonal().clone())


def detail(
    lm: LanguageModel,
    prompt: Sample,
    *,
    alpha: float,
    layer: int | None = None,
    penalty: bool = True,
    projection: Sketch | None = None,
) -> DemonstrationInfluence:
    """The influence of every earlier turn of ``prompt`` on its last: ``test`` [1, n] and ``itself`` [n].

    The demonstrations are the pairs of a user's and an assistant's turn before the last user's turn; ``prompt.answer``
    is the query's label. A turn's state is the output of decoder layer ``layer`` (by default ``middle`` as of
    :func:`adaptinf.capture.layer_indices`, 15 of 32 as in DETAIL) where the first token of its answer is predicted, so
    that it has not seen its own label. Labels are one-hot over the distinct answers.

    Raises DataError where there is no demonstration, and what encoding raises.
    """
    states, answers = demonstration_states(lm, prompt, layer=layer)
    if len(answers) < 2:
        raise DataError("has no earlier turn", item=prompt.id, remedy="give demonstrations as user and assistant turns")
    known = {answer: number for number, answer in enumerate(dict.fromkeys(answers))}
    labels = F.one_hot(torch.tensor([known[answer] for answer in answers], device=states.device), len(known)).double()
    return demonstration_influence(
        states[:-1], labels[:-1], states[-1:], labels[-1:], alpha=alpha, penalty=penalty, projection=projection
    )


@torch.no_grad()
def demonstration_states(lm: LanguageModel, prompt: Sample, *, layer: int | None = None) -> tuple[Tensor, list[str]]:
    """``(states [turns, d], answers)`` of every assistant's turn, the last one's being ``prompt.answer``."""
    layers = lm.decoder_layers
    [index] = layer_indices("middle" if layer is None else [layer], len(layers))
    encoded = lm.encoder.encode(prompt)
    asked = encoded.labels != -100
    starts = (asked[1:] & ~asked[:-1]).nonzero()[:, 0]  # the position before the first token of each answer
    answers = [message.text for message in prompt.messages if message.role == "assistant"] + [prompt.answer]
    if len(starts) != len(answers):
        raise DataError("an answer has no token of its own", item=prompt.id, remedy="check the chat template")
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        kept.append(output[0] if isinstance(output, tuple) else output)

    training = lm.model.training
    handle = layers[index][1].register_forward_hook(keep)
    try:
        lm.model.eval()
        lm.hidden_states(lm.encoder.collate([encoded]))
    finally:
        handle.remove()
        lm.model.train(training)
    return kept[0][0, starts.to(kept[0].device)], answers


def _projected(rows: Tensor, projection: Sketch) -> Tensor:
    shape = (1, rows.shape[1]) if projection.kind in ("xorts", "kron") else None
    return project(rows.detach().double(), projection, name="demonstrations", shape=shape).double()


def _check(states: Tensor, labels: Tensor, query_states: Tensor, query_labels: Tensor, alpha: float) -> None:
    for name, rows, wanted in (("states", states, labels), ("query_states", query_states, query_labels)):
        if rows.dim() != 2 or wanted.dim() != 2 or len(rows) != len(wanted) or not len(rows):
            raise ConfigError(
                f"are {list(rows.shape)} with labels {list(wanted.shape)}",
                item=name,
                remedy="give [n, d] and [n, c], n >= 1",
            )
        if not (bool(torch.isfinite(rows).all()) and bool(torch.isfinite(wanted).all())):
            raise NonFiniteError("have a NaN or an infinity", item=name, remedy="use a wider dtype for the model")
    if states.shape[1] != query_states.shape[1] or labels.shape[1] != query_labels.shape[1]:
        raise ConfigError("differ from the demonstrations' in width", item="query_states")
    if not (math.isfinite(alpha) and alpha > 0):
        raise ConfigError("must be positive", item=f"alpha={alpha}", remedy=f"DETAIL uses {CURATION} and {NOISE}")
