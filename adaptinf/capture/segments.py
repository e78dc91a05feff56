"""Which rows of a module's input belong to which sample of the batch."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from adaptinf.errors import UnsupportedModelError


@dataclass(frozen=True)
class Segments:
    """Where the samples of a batch lie; made by :meth:`rows`, :meth:`mask` or :meth:`packed`.

    ``cu_seqlens`` int32 [samples + 1] counts each sample's tokens, ``positions`` int64 [tokens] are their cells in the
    flattened ``[B * T]`` grid of ``cells`` cells, sample after sample (None: every cell, in order). Without
    ``cu_seqlens`` every row of the batch is a sample, however many rows of a module's input it makes.
    """

    samples: int
    cu_seqlens: Tensor | None = None
    positions: Tensor | None = None
    cells: int = 0
    _placed: dict[object, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def rows(cls, samples: int) -> Segments:
        """Inputs are ``[samples, ...]``: one sample a row, all of whose cells count."""
        if samples < 1:
            raise ValueError(f"a batch has at least one sample, not {samples}")
        return cls(samples)

    @classmethod
    def mask(cls, attention_mask: Tensor) -> Segments:
        """One sample a row of ``attention_mask`` [B, T], its tokens where the mask is not 0."""
        if attention_mask.dim() != 2:
            raise ValueError(f"attention_mask must be [B, T], not {list(attention_mask.shape)}")
        real = attention_mask != 0
        positions = real.flatten().nonzero().squeeze(1)
        cu_seqlens = torch.zeros(len(real) + 1, dtype=torch.int32, device=real.device)
        cu_seqlens[1:] = real.sum(1).cumsum(0)
        return cls(len(real), cu_seqlens, positions if len(positions) < real.numel() else None, real.numel())

    @classmethod
    def packed(cls, cu_seqlens: Tensor) -> Segments:
        """Rows without padding: the samples' tokens one after another, sample b from ``cu_seqlens[b]``."""
        bounds = cu_seqlens.tolist()
        if cu_seqlens.dim() != 1 or len(bounds) < 2 or bounds[0] != 0 or bounds != sorted(bounds):
            raise ValueError(f"cu_seqlens must rise from 0, one entry more than samples, not {bounds}")
        return cls(len(bounds) - 1, cu_seqlens.to(torch.int32), None, int(bounds[-1]))

    def split(self, name: str, values: Tensor, *, features: int = 1) -> tuple[Tensor, Tensor]:
        """The samples' rows of ``values`` [..., d], one after another, and their ``cu_seqlens``.

        ``features`` is the number of trailing dimensions that belong to a token: 1, or 0 for token ids.
        Raises UnsupportedModelError where the rows of the module ``name`` are not those of the batch.
        """
        leading = values.shape[: values.dim() - features]
        count = leading.numel() if leading else 0
        expected = self.samples if self.cu_seqlens is None else self.cells
        if not leading or (leading[0] if self.cu_seqlens is None else count) != expected:
            what = f"inputs of {self.samples} rows" if self.cu_seqlens is None else f"{self.cells} tokens"
            raise UnsupportedModelError(
                f"sees values of shape {list(values.shape)} where the batch has {what}, so its rows cannot be told "
                "apart by sample",
                item=name,
                remedy="say where the samples lie with Segments.mask or Segments.packed, and leave out parameters of "
                "parts that do not see the batch's tokens (vision towers, experts called on some of them)",
            )
        flat = values.flatten(0, len(leading) - 1)
        if self.positions is not None:
            flat = flat.index_select(0, self._on(self.positions, "positions", values.device))
        return flat, self.bounds(count // self.samples, values.device)

    def owners(self, name: str, tokens: Tensor) -> Tensor:
        """The sample of every row of ``tokens`` [T, d], all of the batch's cells in order; -1 for padding."""
        cells = self.cells if self.cu_seqlens is not None else len(tokens) // self.samples * self.samples
        if tokens.dim() != 2 or len(tokens) != cells or not cells:
            raise UnsupportedModelError(
                f"sees values of shape {list(tokens.shape)} where the batch has {cells} tokens",
                item=name,
                remedy="say where the samples lie with Segments.mask or Segments.packed",
            )
        bounds = self.bounds(cells // self.samples, tokens.device)
        count = cells if self.positions is None else len(self.positions)
        samples = torch.arange(self.samples, device=tokens.device)
        owner = samples.repeat_interleave(bounds.diff().long(), output_size=count)
        if self.positions is None:
            return owner
        positions = self._on(self.positions, "positions", tokens.device)
        return torch.full((cells,), -1, device=tokens.device).index_copy_(0, positions, owner)

    def bounds(self, rows: int, device: torch.device) -> Tensor:
        """``cu_seqlens`` on ``device``; ``rows`` are a sample's rows where each row of the batch is one."""
        if self.cu_seqlens is not None:
            return self._on(self.cu_seqlens, "bounds", device)
        key = (rows, device)
        if key not in self._placed:
            self._placed[key] = torch.arange(self.samples + 1, dtype=torch.int32, device=device) * rows
        return self._placed[key]

    def _on(self, tensor: Tensor, what: str, device: torch.device) -> Tensor:
        key = (what, device)
        if key not in self._placed:
            self._placed[key] = tensor.to(device)
        return self._placed[key]
