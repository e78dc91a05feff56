"""Adam's state after a step's training, beside its adapter: what LESS takes the direction of a gradient from."""

from __future__ import annotations

from pathlib import Path

import torch
from adaptinf_kernels import Preconditioner
from torch import nn

from adaptinf.errors import ConfigError
from adaptinf.store import read_json, read_tensors, write_json, write_tensors

TENSORS, SETTINGS = "moments.safetensors", "moments.json"


def moments_of(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Preconditioner]:
    """Of every parameter that is trained, by name; nothing where the optimiser never stepped (all steps skipped).

    Raises ConfigError for an optimiser without Adam's moments.
    """
    if not optimizer.state:
        return {}
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    try:
        return {name: Preconditioner.of_optimizer(optimizer, parameter, form="less") for name, parameter in trained}
    except ValueError as error:
        raise ConfigError(str(error), item=type(optimizer).__name__, remedy="train with AdamW") from error


def save_moments(moments: dict[str, Preconditioner], directory: Path) -> None:
    """``exp_avg.NAME`` and ``exp_avg_sq.NAME`` in float32, and the betas and eps."""
    tensors, settings = {}, {}
    for name, one in sorted(moments.items()):
        assert one.first is not None
        tensors[f"exp_avg.{name}"] = one.first.float().cpu().numpy()
        tensors[f"exp_avg_sq.{name}"] = one.second.float().cpu().numpy()
        settings = {"beta1": one.beta1, "beta2": one.beta2, "eps": one.eps}
    write_tensors(directory / TENSORS, tensors)
    write_json(directory / SETTINGS, settings)


def load_moments(directory: Path, device: torch.device) -> dict[str, Preconditioner]:
    """What ``save_moments`` wrote, on ``device``."""
    tensors, settings = read_tensors(directory / TENSORS), read_json(directory / SETTINGS)
    names = [name.removeprefix("exp_avg.") for name in tensors if name.startswith("exp_avg.")]
    return {
        name: Preconditioner.less(
            torch.from_numpy(tensors[f"exp_avg.{name}"]).to(device),
            torch.from_numpy(tensors[f"exp_avg_sq.{name}"]).to(device),
            **settings,
        )
        for name in names
    }
