"""What is sketched as one vector (a weight, the adapters of a layer, the model), and by which sketches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from adaptinf_kernels import Sketch, grad_sketch_linear
from adaptinf_kernels.sketch.tables import rademacher_block, sjlt_codes, xorts_codes
from scipy import sparse
from torch import Tensor

from benchmarks.sketch_quality.gradients import Factors
from benchmarks.sketch_quality.measures import compare, independent

REPETITIONS = (1, 2, 4)
_CPU = torch.device("cpu")


class Target:
    """Sums Gram matrices and sketches over weights; the sketches use the library's matrices on gradients that exist."""

    def __init__(self, label: str, samples: int, ks: Sequence[int], seeds: int, *, dense: Sequence[int] = ()) -> None:
        """Kinds by ``ks``, each with so many seeds; dense signs only for the k in ``dense``, they cost the most."""
        self.label, self.ks, self.seeds, self.dense = label, ks, seeds, dense
        self.gram = np.zeros((samples, samples))
        self._sums: dict[Sketch, np.ndarray] = {}
        for k in ks:
            kinds = [("sjlt", 1, 1), ("sjlt", 4, 1), ("xorts", 1, max(REPETITIONS)), ("kron", 1, 1)]
            kinds += [("rademacher", 1, 1)] * (k in dense)
            for seed in range(seeds):
                for kind, nonzeros, repetitions in kinds:
                    sketch = Sketch(kind, k, seed, nonzeros, repetitions, min_side=1)  # pyright: ignore[reportArgumentType]
                    self._sums[sketch] = np.zeros((repetitions, k, samples))

    def add(self, weight: Factors) -> None:
        """What does not need the gradient itself."""
        x, g = torch.cat(weight.x), torch.cat(weight.g)
        bounds = torch.tensor([0, *np.cumsum([len(part) for part in weight.x])])
        for sketch, total in self._sums.items():
            if sketch.kind == "kron":
                total[0] += grad_sketch_linear(x, g, bounds, sketch, name=weight.name).sketch.T.numpy() / sketch.scale

    def add_block(self, weight: Factors, rows: range, entries: Tensor, gram: np.ndarray) -> None:
        self.gram += gram
        for sketch, total in self._sums.items():
            if sketch.kind == "rademacher":
                first = rows.start * weight.shape[1]
                signs = rademacher_block(sketch, weight.name, first, first + len(entries), _CPU)
                total[0] += (signs.float() @ entries).numpy()
            elif sketch.kind != "kron":
                for part, codes in zip(_parts(sketch, total), _codes(sketch, weight, rows), strict=True):
                    part += _scattered(codes, sketch.k, entries.numpy())

    def results(self) -> Iterator[dict]:
        """One row of measures for each kind, k and seed."""
        for k in self.ks:
            for seed in range(self.seeds):
                yield self._row("iid (Gaussian law)", k, seed, independent(self.gram, k, seed))
        for sketch, total in self._sums.items():
            if sketch.kind == "xorts":
                for repetitions in REPETITIONS:
                    z = total[:repetitions].sum(0).T / repetitions**0.5
                    yield self._row(f"xorts R={repetitions}", sketch.k, sketch.seed, z)
            else:
                name = f"sjlt s={sketch.nonzeros}" if sketch.kind == "sjlt" else sketch.kind
                yield self._row(name, sketch.k, sketch.seed, total[0].T * sketch.scale)

    def _row(self, kind: str, k: int, seed: int, z: np.ndarray) -> dict:
        return {"target": self.label, "kind": kind, "k": k, "seed": seed, **compare(self.gram, z)}


def _parts(sketch: Sketch, total: np.ndarray) -> Sequence[np.ndarray]:
    """What each row of codes is added to: a repetition of xorts is kept apart, the slices of sjlt share one sum."""
    return total if sketch.kind == "xorts" else [total[0]] * sketch.nonzeros


def _codes(sketch: Sketch, weight: Factors, rows: range) -> np.ndarray:
    d_out, d_in = weight.shape
    if sketch.kind == "sjlt":
        return sjlt_codes(sketch, weight.name, rows, range(d_in), _CPU).numpy()
    of_rows = xorts_codes(sketch, weight.name, 0, d_out, _CPU)[:, rows.start : rows.stop, None]
    return (of_rows ^ xorts_codes(sketch, weight.name, 1, d_in, _CPU)[:, None, :]).flatten(1).numpy()


def _scattered(codes: np.ndarray, k: int, entries: np.ndarray) -> np.ndarray:
    """[k, samples]: each row of ``entries`` added to the row its code names, with the code's sign."""
    signs = np.where(codes < k, np.float32(1), np.float32(-1))
    index = (signs, codes % k, np.arange(len(codes) + 1))
    return sparse.csc_array(index, shape=(k, len(codes))) @ entries
