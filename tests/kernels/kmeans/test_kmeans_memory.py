"""A fit that starts from one that remembers its rows gives the bits that it gives without, and computes less."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from adaptinf_kernels import KMeansResult, NotSupportedError, kmeans
from adaptinf_kernels.kmeans import ops
from torch import Tensor


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def blobs(n: int, d: int, k: int, seed: int = 0) -> Tensor:
    centres = noise(k, d, seed=99) * 2
    return centres[torch.arange(n) * 7919 % k] + noise(n, d, seed=seed)


def replaced(x: Tensor) -> Tensor:
    new = x.clone()
    new[..., ::100, :] = blobs(x.shape[-2], x.shape[-1], 12, seed=5).to(x.dtype)[::100]
    return new


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "one in a hundred": replaced,
    "all": lambda x: x + noise(*x.shape, seed=7).to(x.dtype),
    "another order": lambda x: x[torch.randperm(len(x), generator=torch.Generator().manual_seed(1))],
    "the first row is gone": lambda x: x[1:],
    "half of them are gone": lambda x: x[::2],
    "rows are added": lambda x: torch.cat([x[:300], blobs(200, x.shape[1], 12, seed=3).to(x.dtype), x[300:]]),
    "copies": lambda x: torch.cat([x, x[:700]]),
    "signs": lambda x: torch.where(torch.arange(len(x))[:, None] % 50 == 0, -x, x),
    "two columns are swapped in some rows": lambda x: torch.where(
        torch.arange(len(x))[:, None] % 50 == 0, x.roll(1, 1), x
    ),
    "a far row moves the origin and the scale": lambda x: torch.cat([x, x[:1] * 1e3]),
    "everything is moved": lambda x: x + 1,
}


def same(one: KMeansResult[Any], other: KMeansResult[Any]) -> None:
    for name in ("labels", "centroids", "sizes", "weights", "radii", "origin"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    for name in ("inertia", "n_iter", "changed"):
        assert np.array_equal(np.asarray(getattr(one, name)), np.asarray(getattr(other, name))), name


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_same_bits_whatever_changed(change: str, metric: Any, dtype: torch.dtype, optimised: str) -> None:
    x = blobs(2000, 30, 12).to(dtype)
    former = kmeans(x, 12, init="random", metric=metric, remember=True, impl=optimised)
    new, options = CHANGES[change](x), {"metric": metric, "stop": "labels", "impl": optimised}
    expected = kmeans(new, 12, init=former.centroids, **options)
    found = kmeans(new, 12, init=former, remember=True, **options)
    same(found, expected)
    # and again from what that one remembers
    same(kmeans(x, 12, init=found, **options), kmeans(x, 12, init=expected.centroids, **options))


def test_the_reference_takes_what_was_remembered(impl: str) -> None:
    x = blobs(300, 9, 5)
    former = kmeans(x, 5, remember=True, impl=impl)
    same(kmeans(replaced(x), 5, init=former, impl="reference"), kmeans(replaced(x), 5, init=former.centroids))


def test_batches(optimised: str) -> None:
    x = torch.stack([blobs(700, 11, 12, seed=seed) for seed in range(6)])
    former = kmeans(x, 4, remember=True, impl=optimised)
    swapped = replaced(x)[[1, 0, 2, 3, 4, 5]]  # known rows of one problem are new ones of another
    same(kmeans(swapped, 4, init=former), kmeans(swapped, 4, init=former.centroids))


def test_ragged_problems_that_lose_and_gain_rows(optimised: str) -> None:
    x, k = blobs(900, 7, 12), [3, 1, 9]
    former = kmeans(x, k, cu_rows=torch.tensor([0, 100, 101, 900]), remember=True, impl=optimised)
    rows = {"cu_rows": torch.tensor([0, 60, 150, 900])}
    same(kmeans(x, k, init=former, **rows), kmeans(x, k, init=former.centroids, **rows))


def test_centroids_that_are_dealt_out_to_other_problems(optimised: str) -> None:
    x, rows = blobs(900, 7, 12), {"cu_rows": torch.tensor([0, 400, 900])}
    former = kmeans(x, [3, 9], **rows, remember=True, impl=optimised)
    same(kmeans(x, [9, 3], init=former, **rows), kmeans(x, [9, 3], init=former.centroids, **rows))
    same(kmeans(x, 12, init=former), kmeans(x, 12, init=former.centroids))


def test_other_weights_and_rows_that_are_left_out(optimised: str) -> None:
    x = blobs(800, 6, 5)
    former = kmeans(x, 5, remember=True, impl=optimised)
    x[[3, 700]] = torch.nan
    options: dict[str, Any] = {"sample_weight": noise(800, seed=2).abs(), "non_finite": "ignore"}
    warm = kmeans(x, 5, init=former, remember=True, **options)
    same(warm, kmeans(x, 5, init=former.centroids, **options))
    same(kmeans(x, 5, init=warm, **options), kmeans(x, 5, init=warm.centroids, **options))


def products(result: KMeansResult[Any]) -> int:
    assert result.memory is not None
    return int(result.memory.products)


def test_rows_that_are_the_same_are_not_looked_at(optimised: str) -> None:
    x = blobs(4000, 32, 40)
    former = kmeans(x, 40, init=x[:40], stop="labels", remember=True, impl=optimised)
    assert products(former) >= 4000 * 40
    again = kmeans(x, 40, init=former, max_iter=0, remember=True, impl=optimised)
    assert products(again) < 4000 * 40 * 0.02 + 4000  # the distance of each row to its centroid, and few screens
    order = torch.randperm(4000, generator=torch.Generator().manual_seed(0))
    moved = kmeans(x[order], 40, init=former, max_iter=0, remember=True, impl=optimised)
    assert products(moved) < 4000 * 40 * 0.02 + 4000
    unknown = kmeans(x + 1, 40, init=former, max_iter=0, remember=True, impl=optimised)
    assert products(unknown) >= 4000 * 40


def test_few_rows_that_changed_cost_a_tenth_of_a_fit(optimised: str) -> None:
    x = blobs(20_000, 32, 64)
    start = {"init": "random", "stop": "labels", "remember": True, "impl": optimised}
    former = kmeans(x, 64, **start)
    new = replaced(x)
    warm, cold = kmeans(new, 64, **{**start, "init": former}), kmeans(new, 64, **start)
    assert products(cold) > 10 * products(warm)


def test_a_fit_follows_its_bounds() -> None:
    """They are used: false ones give false labels."""
    x = blobs(200, 5, 4)
    former = kmeans(x, 4, remember=True, impl="native")
    assert former.memory is not None
    labels = (former.labels + 1) % 4
    lie = former.memory._replace(
        known=ops.Known(labels, torch.full((200,), 0.5).double(), torch.full((200,), 1e3).double())
    )
    found = kmeans(x, 4, init=type(former)(**{**vars(former), "memory": lie}), max_iter=0, impl="native")
    assert torch.equal(found.labels, labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_rows_that_differ_have_other_hashes(dtype: torch.dtype, impl: str) -> None:
    """Signs, places and single bits of otherwise equal rows."""
    row = noise(1, 70).to(dtype)
    signs = torch.where(torch.rand(3000, 70, generator=torch.Generator().manual_seed(0)) < 0.1, -row, row)
    lattice = torch.randint(-1, 2, (3000, 70), generator=torch.Generator().manual_seed(1)).to(dtype)
    ones = torch.cat([torch.eye(70), -torch.eye(70), 1 - torch.eye(70), torch.eye(70) * 2]).to(dtype)
    wide = {torch.float16: torch.int16, torch.float32: torch.int32, torch.float64: torch.int64}[dtype]
    bits = torch.ones(8 * row.element_size(), dtype=wide) << torch.arange(8 * row.element_size()).to(wide)
    flipped = (row.view(wide).repeat(len(bits) * 70, 1)).view(70, len(bits), 70)
    flipped[torch.arange(70), :, torch.arange(70)] ^= bits
    rows = torch.cat([part.view(wide) for part in (row, signs, lattice, ones)] + [flipped.flatten(0, 1)])
    distinct = len(np.unique(rows.numpy(), axis=0))
    assert len(ops.hashes(impl, rows.view(dtype)).unique()) == distinct > 6000


def test_what_cannot_be_remembered_is_said() -> None:
    x = blobs(100, 5, 4)
    with pytest.raises(NotSupportedError, match="chunks"):
        kmeans([x], 4, remember=True)
    former = kmeans(x, 4, metric="cosine", remember=True)
    with pytest.raises(ValueError, match=r"metric='cosine', not 'euclidean'; give init=init\.centroids"):
        kmeans(x, 4, init=former)
    with pytest.raises(ValueError, match=r"init must be \[k, d\] = \[5, 5\]"):
        kmeans(x, 5, init=former, metric="cosine")
    assert kmeans(x, 4).memory is None
    assert former.partial_fit(x).memory is None


def test_numpy_rows_and_chunks_start_from_a_former_result() -> None:
    x = blobs(500, 5, 4).numpy()
    former = kmeans(x, 4, remember=True)
    same(kmeans(x, 4, init=former), kmeans(x, 4, init=former.centroids))
    same(kmeans([x[:200], x[200:]], 4, init=former), kmeans(x, 4, init=former.centroids))
