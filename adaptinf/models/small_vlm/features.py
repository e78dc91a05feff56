"""Features of pictures under the frozen encoder, computed once per picture and kept on disk."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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
_SHARD = 256
"""Pictures a file."""


def preprocess(image: Image, size: int) -> Tensor:
    """[3, size, size] float32: RGB, scaled to a square (bicubic, aspect ratio not kept), then (x - 127) / 128."""
    picture = load_image(image).convert("RGB").resize((size, size), Resampling.BICUBIC)
    return (torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() - 127) / 128


class PictureFeatures:
    """``features[image]``: [tokens, channels] float16, by the sha256 of the picture's bytes.

    Always computed in float32 on the CPU, one picture by one thread, and rounded to float16, cached or not, so that a
    run's numbers depend neither on the cache nor on the model's device nor on the number of threads. On disk: shards of
    up to 256 pictures, each a safetensors file named by its content's keys, complete or absent; one that cannot be read
    is deleted and computed anew. ``folder=None`` keeps them in memory only.
    """

    def __init__(self, tower: nn.Module, size: int, folder: Path | None) -> None:
        self.tower = tower.to("cpu", torch.float32).eval()
        self.tower.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - the faster layout here
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
        with (
            progress(total=len(missing), description="picture features", unit="picture") as bar,
            _single_threads() as workers,
        ):
            for start in range(0, len(missing), _SHARD):
                shard = missing[start : start + _SHARD]
                new: dict[str, Tensor] = {}
                for image, found in zip(shard, workers.map(self._of_image, shard), strict=True):
                    new[image.sha256] = found
                    bar.update()
                self._known.update(new)
                self._save(new)

    def _of_image(self, image: Image) -> Tensor:
        return self.compute(preprocess(image, self.size))

    @torch.inference_mode(False)
    @torch.no_grad()
    def compute(self, pixels: Tensor) -> Tensor:
        """[tokens, channels] float16 of a preprocessed picture [3, size, size]."""
        return self.tower(pixels[None].contiguous(memory_format=torch.channels_last))[0].half()

    def _save(self, new: dict[str, Tensor]) -> None:
        if self.folder is None:
            return
        name = hashlib.sha256("".join(sorted(new)).encode()).hexdigest()[:32]
        publish(self.folder / f"{name}.safetensors", lambda path: save_file(new, path))


@contextmanager
def _single_threads() -> Iterator[ThreadPoolExecutor]:
    """As many workers as torch has threads, each with one of its own: a picture is too small to be shared."""
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as workers:
            yield workers
    finally:
        torch.set_num_threads(threads)


def _digest(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
