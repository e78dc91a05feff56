"""Features of pictures under the frozen encoder, computed once per picture and kept on disk."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL.Image import Resampling
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from adaptinf.data import Image, load_image
from adaptinf.progress import progress
from adaptinf.store import publish

logger = logging.getLogger(__name__)
_BATCH = 32


def preprocess(image: Image, size: int) -> Tensor:
    """[3, size, size] float32: RGB, scaled to a square (bicubic, aspect ratio not kept), then (x - 127) / 128."""
    picture = load_image(image).convert("RGB").resize((size, size), Resampling.BICUBIC)
    return (torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() - 127) / 128


class PictureFeatures:
    """``features[image]``: [tokens, channels] float16, by the sha256 of the picture's bytes.

    Always computed in float32 on the CPU and rounded to float16, cached or not, so that a run's numbers depend
    neither on the cache nor on the model's device. On disk: shards of up to 256 pictures, each a safetensors file
    named by its content's keys, complete or absent; one that cannot be read is deleted and computed anew.
    ``folder=None`` keeps them in memory only.
    """

    def __init__(self, tower: nn.Module, size: int, folder: Path | None) -> None:
        self.tower = tower.to("cpu", torch.float32).eval()
        self.size = size
        self.folder = folder / f"{_digest(self.tower)[:16]}-{size}" if folder is not None else None
        self._known: dict[str, Tensor] = {}
        if self.folder is not None and self.folder.is_dir():
            for shard in sorted(self.folder.glob("*.safetensors")):
                try:
                    self._known.update(load_file(shard))
                except (OSError, SafetensorError) as error:
                    logger.warning("deleting the damaged cache file %s (%s)", shard, error)
                    shard.unlink(missing_ok=True)

    def __getitem__(self, image: Image) -> Tensor:
        if image.sha256 not in self._known:
            self.prepare([image])
        return self._known[image.sha256]

    def prepare(self, images: Sequence[Image]) -> None:
        """Compute all that are missing. Raises ImageError for a picture that cannot be read."""
        missing = list({image.sha256: image for image in images if image.sha256 not in self._known}.values())
        if not missing:
            return
        with progress(total=len(missing), description="picture features", unit="picture") as bar:
            for start in range(0, len(missing), 256):
                shard = missing[start : start + 256]
                new: dict[str, Tensor] = {}
                for first in range(0, len(shard), _BATCH):
                    batch = shard[first : first + _BATCH]
                    pixels = torch.stack([preprocess(image, self.size) for image in batch])
                    new.update(zip([image.sha256 for image in batch], self.compute(pixels), strict=True))
                    bar.update(len(batch))
                self._known.update(new)
                self._save(new)

    @torch.inference_mode(False)
    @torch.no_grad()
    def compute(self, pixels: Tensor) -> Tensor:
        """[n, tokens, channels] float16 of preprocessed [n, 3, size, size]; a row does not depend on the others."""
        return torch.cat([self.tower(one[None]) for one in pixels]).half()

    def _save(self, new: dict[str, Tensor]) -> None:
        if self.folder is None:
            return
        name = hashlib.sha256("".join(sorted(new)).encode()).hexdigest()[:32]
        publish(self.folder / f"{name}.safetensors", lambda path: save_file(new, path))


def _digest(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
