"""Near-duplicates across the borders of clusters: exactly those of one cluster of all rows, whatever the clusters."""

from __future__ import annotations

import pytest
import torch
from adaptinf_kernels import kmeans, semdedup
from adaptinf_kernels.semdedup.borders import joined, with_guests
from hypothesis import given, settings
from hypothesis import strategies as st


def problem(seed: int, n: int, d: int, k: int, kind: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows, some zero and some nearly copies; clusters, k-means' or drawn; ranks with ties."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g)
    x[torch.rand(n, generator=g) < 0.1] = 0
    source = torch.randint(0, n, (n,), generator=g)
    noise = 10.0 ** -torch.randint(1, 7, (n, 1), generator=g).float()
    copy = torch.rand(n, generator=g) < 0.4
    x[copy] = (x[source] + noise * torch.randn(n, d, generator=g))[copy]
    labels = kmeans(x, min(k, n), seed=seed).labels if kind == "k-means" else torch.randint(0, k, (n,), generator=g)
    return x, labels, torch.randint(0, n // 2 + 1, (n,), generator=g)


@given(
    st.integers(0, 10**6), st.integers(1, 150), st.integers(1, 9), st.integers(1, 10),
    st.sampled_from(["k-means", "none"]), st.sampled_from(["reference", "components"]),
    st.sampled_from([0.0, 1e-7, 1e-3, 0.05, 0.5, 1.3, 2.0]),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_as_one_cluster(seed: int, n: int, d: int, k: int, kind: str, keep: str, eps: float) -> None:
    x, labels, rank = problem(seed, n, d, k, kind)
    one = semdedup(x, eps=eps, keep=keep, rank=rank)
    inside = semdedup(x, labels, eps=eps, keep=keep, rank=rank)
    found = semdedup(x, labels, eps=eps, keep=keep, rank=rank, borders="exact")
    assert torch.equal(found.kept, one.kept)
    assert torch.equal(found.duplicate_of, one.duplicate_of)
    above = one.max_similarity.double() > 1 - eps
    expected = torch.where(above, one.max_similarity, inside.max_similarity)
    near = (one.max_similarity.double() - (1 - eps)).abs() < 2**-23  # rounded to float32 it may lie on either side
    torch.testing.assert_close(found.max_similarity[~near], expected[~near], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("keep", ["reference", "components"])
def test_several_thresholds_and_implementations(keep: str) -> None:
    x, labels, rank = problem(3, 400, 5, 12, "k-means")
    eps = [0.0, 0.01, 0.2]
    one = semdedup(x, eps=eps, keep=keep, rank=rank)
    for impl in ("reference", "native"):
        found = semdedup(x.numpy(), labels.numpy(), eps=eps, keep=keep, rank=rank, borders="exact", impl=impl)
        assert (found.kept == one.kept.numpy()).all()
        assert (found.duplicate_of == one.duplicate_of.numpy()).all()
    for number, each in enumerate(eps):
        alone = semdedup(x, labels, eps=each, keep=keep, rank=rank, borders="exact")
        assert torch.equal(alone.kept, one.kept[number])
    assert (one.kept != semdedup(x, labels, eps=eps, keep=keep, rank=rank).kept).any(), "no pair lies across a border"


def test_few_rows_are_guests_where_clusters_stand_apart() -> None:
    g = torch.Generator().manual_seed(0)
    centres = torch.randn(8, 32, generator=g)
    labels = torch.arange(4000) % 8
    x = centres[labels] + 0.1 * torch.randn(4000, 32, generator=g)
    assert len(with_guests(x, labels, 8, 0.01)[0]) == 0
    rows, hosts = with_guests(x, labels, 8, 2.0)
    assert len(rows) == 7 * 4000
    assert (labels[rows] != hosts).all()


def test_joined_by_warshall() -> None:
    for seed in range(40):
        g = torch.Generator().manual_seed(seed)
        parent, child = torch.randint(0, 40, (2, 5 + seed), generator=g)
        reach = torch.eye(40, dtype=torch.bool)
        reach[parent, child] = reach[child, parent] = True
        for middle in range(40):
            reach |= reach[:, middle : middle + 1] & reach[middle]
        assert torch.equal(joined(torch.arange(40), parent, child), reach.int().argmax(1))


def test_what_it_does_not_take() -> None:
    x = torch.randn(6, 3)
    for arguments in ({"eps": 0.1}, {"budget": 3, "keep": "reference"}):
        with pytest.raises(ValueError, match="borders='exact' takes eps, and keep='reference' or 'components'"):
            semdedup(x, [0, 0, 0, 1, 1, 1], borders="exact", **arguments)
    with pytest.raises(ValueError, match="borders='all': choose from ignore, exact"):
        semdedup(x, eps=0.1, borders="all")
    assert semdedup(x[:0], eps=0.1, keep="reference", borders="exact").kept.shape == (0,)
