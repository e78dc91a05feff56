"""How alike models represent the same samples, layer by layer, and where several adapters of one base part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from adaptinf.data import Sample
from adaptinf.errors import ConfigError, DataError, IdentityError, NonFiniteError
from adaptinf.models import LanguageModel, load_adapter, remove_lora
from adaptinf.routing.prompts import Pooling, each_prompt, pooled_layers

Kernel = Literal["linear", "rbf"]


@dataclass(frozen=True)
class LayerFeatures:
    """Row i of every layer belongs to the sample ``ids[i]``; ``layers`` float32 [layers, N, d]."""

    ids: tuple[str, ...]
    layers: NDArray[np.float32]


def linear_cka(x: ArrayLike, y: ArrayLike) -> float:
    """``<K, L> / (||K||_F ||L||_F)`` with ``K = X X^T`` and ``L = Y Y^T`` of the centred ``X`` [n, p] and ``Y`` [n, q].

    Row i of both belongs to the same sample. In [0, 1]; 1 for ``Y = c X Q + shift`` with an orthogonal Q. float64;
    holds two n x n matrices. Few samples of wide features are alike by chance: independent Gaussians have about
    ``sqrt(p q / ((n + p) (n + q)))``.

    Raises DataError for less than 2 rows, unequal numbers of rows, or features that are the same for all rows;
    NonFiniteError for NaN and infinities.

    Source: Kornblith et al. 2019, section 3.
    """
    x, y = _paired(x, y)
    return _alignment(_linear(x), _linear(y))


def rbf_cka(x: ArrayLike, y: ArrayLike) -> float:
    """``HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))``, ``HSIC(K, L) = <H K H, H L H>``, ``H = I - 1 1^T / n``.

    ``K_ij = exp(-||x_i - x_j||^2 / (2 sigma^2))``, ``sigma^2`` the median of the non-zero squared distances of X; L is
    the same of Y. Shapes, range, invariances, errors as :func:`linear_cka`.

    Source: Kornblith et al. 2019; sigma as in HiDe-LLaVA's test_CKA_sim.py.
    """
    x, y = _paired(x, y)
    return _alignment(_centred(_rbf(x)), _centred(_rbf(y)))


def layer_features(
    lm: LanguageModel,
    adapter: Path | None,
    samples: Sequence[Sample],
    *,
    pooling: Pooling = "mean",
    batch_size: int = 16,
) -> LayerFeatures:
    """Each decoder layer's output at the prompts of ``samples`` (without answers), with one saved adapter or none.

    ``pooling="mean"`` averages the prompt's tokens (HiDe-LLaVA, which taps the MLPs), ``"last"`` takes its last token
    ("Layer by Layer", EMNLP 2024). The adapter is loaded for the call; ``lm`` comes and goes without one.

    Raises ConfigError where ``lm`` has an adapter already, and what ``load_adapter`` raises.
    """
    if hasattr(lm.model, "peft_config"):
        raise ConfigError("has an adapter", item=lm.name, remedy="merge_lora or remove_lora first")
    if pooling not in ("mean", "last"):
        raise ConfigError(f"is {pooling!r}", item="pooling", remedy="choose mean or last")
    if type(batch_size) is not int or batch_size < 1:
        raise ConfigError(f"is {batch_size!r}", item="batch_size", remedy="give a whole number of 1 or more")
    if not samples:
        raise DataError("is empty", item="samples", remedy="give at least two samples, the more the better")
    was_training = lm.model.training
    try:
        if adapter is not None:
            load_adapter(lm, adapter)
        lm.model.eval()
        layers = [layer for _, layer in lm.decoder_layers]
        rows = each_prompt(lm, samples, batch_size, lambda prompts: pooled_layers(lm, prompts, layers, pooling))
    finally:
        remove_lora(lm)
        lm.model.train(was_training)
    return LayerFeatures(tuple(sample.id for sample in samples), torch.stack(rows, dim=1).numpy())


def cross_task_cka(features: Mapping[str, LayerFeatures], kernel: Kernel = "rbf") -> NDArray[np.float64]:
    """CKA of each layer, averaged over the pairs of tasks, float64 [layers].

    All features must be of the same samples in the same order: CKA compares rows, and between the tasks' own, different
    samples (as HiDe-LLaVA's code has it) it says nothing of the models.

    Raises ConfigError for less than two tasks, IdentityError for other samples, DataError for another number of layers
    and for a layer that is the same for all samples.
    """
    if len(features) < 2:
        raise ConfigError(f"are {len(features)}", item="features", remedy="give those of two adapters or more")
    if kernel not in ("linear", "rbf"):
        raise ConfigError(f"is {kernel!r}", item="kernel", remedy="choose linear or rbf")
    first, one = next(iter(features.items()))
    for name, other in features.items():
        if other.ids != one.ids:
            raise IdentityError(
                f"its samples are not those of {first!r}",
                item=name,
                remedy="run both on the same samples, in one order",
            )
        if len(other.layers) != len(one.layers):
            raise DataError(
                f"has {len(other.layers)} layers, {first!r} has {len(one.layers)}",
                item=name,
                remedy="use one base model",
            )
    means = np.empty(len(one.layers))
    for layer in range(len(means)):
        grams = []
        for name, each in features.items():
            x = _checked(each.layers[layer], f"{name}, layer {layer}")
            grams.append(_linear(x) if kernel == "linear" else _centred(_rbf(x)))
        means[layer] = np.mean([_alignment(k, m) for k, m in combinations(grams, 2)])
    return means


def split_layer(cka: ArrayLike) -> int:
    """The layer l >= 1 of the largest drop ``cka[l - 1] - cka[l]``, the first of them: layers from l on are the tasks'.

    The number of layers where nothing drops: all may then be fused. Raises DataError for less than two layers and
    NonFiniteError for NaN.

    HiDe-LLaVA fixes it at the last layer; "Layer by Layer" finds tasks apart from the middle on, so it is measured.
    """
    values = np.asarray(cka, np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise DataError(f"has shape {values.shape}", item="cka", remedy="give one value a layer, of two layers or more")
    if not np.isfinite(values).all():
        raise NonFiniteError("has a NaN or an infinity", item="cka")
    drops = -np.diff(values)
    return int(np.argmax(drops)) + 1 if drops.max() > 0 else len(values)


def _paired(x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = _checked(x, "x"), _checked(y, "y")
    if len(first) != len(second):
        raise DataError(
            f"has {len(second)} rows, x has {len(first)}", item="y", remedy="row i of both belongs to one sample"
        )
    return first, second


def _checked(x: ArrayLike, name: str) -> NDArray[np.float64]:
    rows = np.asarray(x, np.float64)
    if rows.ndim != 2 or len(rows) < 2:
        raise DataError(f"has shape {rows.shape}", item=name, remedy="give a matrix of two rows or more, one a sample")
    if not np.isfinite(rows).all():
        raise NonFiniteError("has a NaN or an infinity", item=name, remedy="leave that sample out")
    if (rows == rows[0]).all():
        raise DataError(
            "is the same for all samples", item=name, remedy="similarity is of what varies: use other samples"
        )
    return rows


def _linear(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The Gram matrix of the centred rows."""
    rows = _scaled(x)
    return rows @ rows.T


def _rbf(x: NDArray[np.float64]) -> NDArray[np.float64]:
    rows = torch.from_numpy(_scaled(x))
    # Of differences, not by the Gram matrix: equal rows are at distance 0, which the median leaves out.
    squared = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").numpy() ** 2
    return np.exp(-squared / (2 * np.median(squared[squared > 0])))


def _scaled(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centred, and the largest value 1, which CKA does not see: no square over- or underflows."""
    x = x / np.abs(x).max()
    x -= x.mean(axis=0)
    return x / np.abs(x).max()


def _centred(k: NDArray[np.float64]) -> NDArray[np.float64]:
    """``H K H``."""
    return k - k.mean(axis=0) - k.mean(axis=1)[:, None] + k.mean()


def _alignment(k: NDArray[np.float64], m: NDArray[np.float64]) -> float:
    return float((k * m).sum() / (np.linalg.norm(k) * np.linalg.norm(m)))
