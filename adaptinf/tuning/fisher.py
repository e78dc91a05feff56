"""The diagonal of the empirical Fisher information of an adapter, summed over steps: what EWC weighs parameters by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from adaptinf.data import Sample
from adaptinf.errors import EmptyTaskError, NonFiniteError
from adaptinf.models import LanguageModel, trainable_parameters
from adaptinf.models.collate import IGNORED
from adaptinf.models.fused import fused_layers
from adaptinf.progress import progress
from adaptinf.store import read_tensors, write_tensors

FILE = "fisher.safetensors"


def empirical_fisher(lm: LanguageModel, samples: Sequence[Sample]) -> tuple[dict[str, Tensor], float]:
    """By name of the trained parameters, ``sum_n g_n^2 / sum_n T_n`` in float64, and the FLOPs of the pass.

    ``g_n`` is the gradient of sample n's whole ``-log p(answer | prompt)``, each taken alone and then squared; ``T_n``
    its answer tokens. So F is in the units of the training loss, nats a token, and with weight 1 the penalty stands for
    the loss of the earlier data at the scale of the current ones. Dropout is off.

    Raises NonFiniteError naming the sample whose gradient is not finite, EmptyTaskError without samples.
    """
    if not samples:
        raise EmptyTaskError(
            "there is no sample to take the Fisher information of", remedy="see why training dropped or skipped them"
        )
    names, parameters = zip(*trainable_parameters(lm), strict=True)
    squares = [torch.zeros(one.shape, dtype=torch.float64, device=one.device) for one in parameters]
    tokens, flops = 0, 0.0
    with fused_layers(lm.model):
        for sample in progress(samples, "Fisher information", unit="sample"):
            encoded = lm.encoder.encode(sample)
            batch = lm.encoder.collate([encoded])
            gradients = torch.autograd.grad(lm.answer_nll(batch), parameters)
            if not all(bool(torch.isfinite(one).all()) for one in gradients):
                raise NonFiniteError(
                    "its gradient is not finite", item=sample.id, remedy="check this sample, or drop it from the data"
                )
            for square, gradient in zip(squares, gradients, strict=True):
                square += gradient.double().square()
            tokens += int((encoded.labels[1:] != IGNORED).sum())
            pixels = batch["pixel_values"].numel() if "pixel_values" in batch else 0
            flops += lm.flops(
                [len(encoded.input_ids)],
                backward_layers=len(lm.decoder_layers),
                weight_gradients=True,
                pixels=pixels,
            )
    return {name: square / tokens for name, square in zip(names, squares, strict=True)}, flops


def save_fisher(fisher: dict[str, Tensor], before: Path | None, directory: Path) -> None:
    """Write the sum of ``fisher`` and what ``before`` holds, by parameter, in float32."""
    total = {name: values.double().cpu().numpy() for name, values in fisher.items()}
    if before is not None:
        earlier = load_fisher(before, torch.device("cpu"))
        total = {name: values + earlier[name].double().numpy() for name, values in total.items()}
    write_tensors(directory / FILE, {name: values.astype(np.float32) for name, values in total.items()})


def load_fisher(directory: Path, device: torch.device) -> dict[str, Tensor]:
    """What ``save_fisher`` wrote, on ``device``; raises ArtefactError where it is not there."""
    return {name: torch.from_numpy(values).to(device) for name, values in read_tensors(directory / FILE).items()}
