"""Encoded samples put together into one batch: padded rows, or one packed row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

PER_TOKEN = frozenset({"mm_token_type_ids", "token_type_ids"})
"""Extras with one entry a token; every other extra has one entry a picture, patch or tile along dimension 0."""

IGNORED = -100


@dataclass(frozen=True)
class Encoded:
    """One sample as the model sees it.

    ``input_ids`` [T] int64; ``labels`` [T] int64, unshifted, -100 off the answers (and always at position 0);
    ``extras`` whatever else the model's forward takes (``pixel_values``, ``image_grid_thw``, ...).
    """

    id: str
    input_ids: Tensor
    labels: Tensor
    extras: dict[str, Tensor]
    n_images: int

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        return sum(tensor.nbytes for tensor in (self.input_ids, self.labels, *self.extras.values()))


def collate(
    batch: Sequence[Encoded], pad_id: int, *, padding_side: Literal["right", "left"] = "right", packed: bool = False
) -> dict[str, Tensor]:
    """Inputs of the model's forward, and ``labels``.

    Padded: ``input_ids``, ``labels``, ``attention_mask`` [B, T]. Packed: ``input_ids``, ``labels``, ``position_ids``
    [1, total], positions restarting at every sample, from which transformers derives the block-diagonal causal mask
    as there is no attention mask, and ``cu_seqlens`` [B + 1] int32. Pictures are concatenated along dimension 0 in
    reading order; where their other dimensions differ (tiles, sides) they are padded with zeros at the end.
    """
    if not batch:
        raise ValueError("an empty batch cannot be collated")
    lengths = [len(one.input_ids) for one in batch]
    rows: dict[str, tuple[list[Tensor], int]] = {
        "input_ids": ([one.input_ids for one in batch], pad_id),
        "labels": ([one.labels for one in batch], IGNORED),
    }
    keys = sorted({key for one in batch for key in one.extras})
    for key in keys:
        if key in PER_TOKEN:
            rows[key] = ([one.extras.get(key, torch.zeros_like(one.input_ids)) for one in batch], 0)
    if packed:
        out = {key: torch.cat(parts)[None] for key, (parts, _) in rows.items()}
        out["position_ids"] = torch.cat([torch.arange(length) for length in lengths])[None]
        out["cu_seqlens"] = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    else:
        out = {
            key: pad_sequence(parts, batch_first=True, padding_value=fill, padding_side=padding_side)
            for key, (parts, fill) in rows.items()
        }
        place = torch.arange(max(lengths))
        place = place if padding_side == "right" else place.flip(0)
        out["attention_mask"] = (place < torch.tensor(lengths)[:, None]).long()
    for key in keys:
        if key not in PER_TOKEN:
            out[key] = join_pictures(one.extras[key] for one in batch if key in one.extras)
    return out


def like_lengths(lengths: Sequence[int]) -> list[list[int]]:
    """The indices in parts, longest first; the longest of a part is at most half as long again as its shortest."""
    parts: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not parts or 3 * lengths[index] < 2 * lengths[parts[-1][0]]:
            parts.append([])
        parts[-1].append(index)
    return parts


def join_pictures(parts: Iterable[Tensor]) -> Tensor:
    """Concatenate along dimension 0; other dimensions are first padded with zeros at the end to the largest."""
    tensors = list(parts)
    sizes = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    padded = []
    for tensor in tensors:
        missing = [size - has for size, has in zip(sizes, tensor.shape[1:], strict=True)]
        padded.append(F.pad(tensor, [n for m in reversed(missing) for n in (0, m)]) if any(missing) else tensor)
    return padded[0] if len(padded) == 1 else torch.cat(padded)
