"""The public functions on CUDA devices, every line of ``native_cuda.py``: CPU tensors pose as CUDA's, and the kernels
run on the CPU (cuda_on_cpu). The bits are the reference's."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from adaptinf_kernels import kmeans, semdedup
from adaptinf_kernels.errors import NotSupportedError
from torch import Tensor

from tests.kernels.cuda_on_cpu import build, counted, pose
from tests.kernels.test_cuda_kmeans import blobs, some_weights


@pytest.fixture(scope="module")
def module(repository: Any, tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    return build(repository, tmp_path_factory.getbasetemp())


@pytest.fixture(autouse=True)
def posing(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
    pose(monkeypatch, module)


def equal(found: Any, expected: Any) -> None:
    for name in ("labels", "centroids", "sizes", "weights", "radii", "origin"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    for name in ("inertia", "n_iter", "changed"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert torch.equal(torch.as_tensor(ours), torch.as_tensor(theirs)), name


FITS: dict[str, Any] = {
    "k-means++": lambda: (blobs(150, 9, 6), 6, {}),
    "k-means||": lambda: (blobs(150, 9, 6), 6, {"init": "k-means||"}),
    "random, float16": lambda: (blobs(150, 9, 6, torch.float16), 7, {"init": "random"}),
    "bfloat16, cosine": lambda: (blobs(140, 17, 4, torch.bfloat16), 5, {"metric": "cosine"}),
    "weights": lambda: (blobs(140, 5, 4), 5, {"sample_weight": some_weights(140)}),
    "inertia, split": lambda: (blobs(140, 5, 4), 30, {"stop": "inertia", "empty": "split"}),
    "a batch": lambda: (torch.stack([blobs(60, 5, 4, seed=s) for s in range(3)]), 4, {"init": "random"}),
    "ragged": lambda: (
        blobs(150, 5, 4),
        [3, 1, 40],
        {"init": "random", "cu_rows": torch.tensor([0, 40, 50, 150], dtype=torch.int32)},
    ),
    "transposed": lambda: (blobs(9, 150, 6).T, 6, {"init": blobs(9, 6, 6, seed=1).T}),
    "strided": lambda: (blobs(300, 40, 6)[::2, :9], 4, {"sample_weight": some_weights(300)[::2]}),
    "no iteration": lambda: (blobs(60, 5, 4), 5, {"max_iter": 0}),
    "ignored rows": lambda: (
        blobs(100, 5, 4).index_put((torch.tensor([3, 50]), torch.tensor([0, 4])), torch.tensor(float("nan"))),
        4,
        {"non_finite": "ignore"},
    ),
}


@pytest.mark.parametrize("name", FITS)
def test_kmeans_has_the_bits_of_the_reference(name: str) -> None:
    x, k, options = FITS[name]()
    equal(kmeans(x, k, impl="native", **options), kmeans(x, k, impl="reference", **options))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_what_a_result_does(metric: Any) -> None:
    x, other = blobs(150, 9, 6), blobs(77, 9, 6, seed=1)
    fit = kmeans(x, 20, metric=metric, max_iter=3, impl="native")
    assert torch.equal(fit.predict(x, impl="native"), fit.labels)
    assert torch.equal(fit.predict(other, impl="native"), fit.predict(other, impl="reference"))
    assert torch.equal(fit.transform(other, impl="native"), fit.transform(other, impl="reference"))
    for m in (1, 3, 18):
        ours, theirs = fit.top_m(other, m, impl="native"), fit.top_m(other, m, impl="reference")
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])
    equal(fit.partial_fit(other, impl="native"), fit.partial_fit(other, impl="reference"))


def test_predict_of_a_batch() -> None:
    x = torch.stack([blobs(60, 5, 4, seed=s) for s in range(3)])
    fit = kmeans(x, 4, init="random", impl="native")
    assert torch.equal(fit.predict(x, impl="native"), fit.labels)
    assert torch.equal(fit.top_m(x, 2, impl="native")[0], fit.top_m(x, 2, impl="reference")[0])


@pytest.mark.parametrize("max_iter", [16, 17, 100])
def test_the_host_does_not_wait_for_iterations(max_iter: int, module: ModuleType) -> None:
    """Only between groups of 16, 32, ... iterations; so many are launched at most, and one assignment before."""
    x = torch.randn(4100, 1, generator=torch.Generator().manual_seed(0))  # too many rows for one block
    options = {"init": x[:3], "max_iter": max_iter, "stop": "labels"}
    found = []
    waits, launches = counted(module, lambda: found.append(kmeans(x, 3, impl="native", **options)))
    equal(found[0], kmeans(x, 3, impl="reference", **options))
    assert 16 < found[0].n_iter <= 48 or found[0].n_iter == max_iter
    assert waits == {16: 0, 17: 1, 100: 2}[max_iter]
    of_scans_and_ends, of_an_assignment, of_an_iteration = 5, 3, 6
    assert launches <= of_scans_and_ends + of_an_assignment + of_an_iteration * min(max_iter, 48)


def test_small_problems_take_one_launch(module: ModuleType) -> None:
    x = torch.stack([blobs(60, 5, 4, seed=s) for s in range(3)])
    options = {"init": x[:, :4].clone(), "stop": "labels", "impl": "native"}
    waits, launches = counted(module, lambda: kmeans(x, 4, **options))
    assert (waits, launches) == (0, 3)  # extremes, column sums, all iterations


def test_rows_in_chunks_have_the_bits_of_one_matrix() -> None:
    x = blobs(150, 9, 6)
    whole = kmeans(x, 6, impl="native")
    equal(kmeans(list(x.split(64)), 6, impl="native"), whole)


def test_bad_rows_and_dtypes_are_named() -> None:
    x = blobs(100, 5, 4)
    x[[31, 77], [2, 0]] = torch.tensor([float("inf"), float("nan")])
    with pytest.raises(ValueError, match="2 of 100 rows, the first is row 31"):
        kmeans(x, 3, impl="native")
    fit = kmeans(blobs(100, 5, 4), 3, impl="native")
    with pytest.raises(ValueError, match="the first is row 31"):
        fit.predict(x, impl="native")
    with pytest.raises(NotSupportedError, match="it takes float32, float16 and bfloat16"):
        kmeans(blobs(100, 5, 4).double(), 3, impl="native")


def groups(rows: int, columns: int) -> Tensor:
    return blobs(rows, columns, rows // 4) + 0.1 * blobs(rows, columns, rows, seed=1)


@pytest.mark.parametrize("keep", ["reference", "greedy", "components"])
def test_semdedup_has_the_bits_of_the_reference(keep: Any) -> None:
    x, labels = groups(160, 9), torch.arange(160) * 7 % 3
    for options in ({"eps": 0.05}, {"eps": [0.01, 0.1]}, {"eps": 0.1, "rank": -torch.arange(160.0)}):
        ours = semdedup(x, labels, keep=keep, impl="native", **options)
        theirs = semdedup(x, labels, keep=keep, impl="reference", **options)
        assert torch.equal(ours.kept, theirs.kept)
        assert torch.equal(ours.duplicate_of, theirs.duplicate_of)
        assert torch.equal(ours.max_similarity.nan_to_num(9), theirs.max_similarity.nan_to_num(9))
        assert not ours.kept.all()


def test_a_budget_of_the_papers_rule_and_borders() -> None:
    x, labels = groups(160, 9), torch.arange(160) * 7 % 3
    for options in ({"budget": 0.5}, {"budget": [20, 10, 5]}, {"eps": 0.05, "borders": "exact"}):
        ours = semdedup(x, labels, keep="reference", impl="native", **options)
        assert torch.equal(ours.kept, semdedup(x, labels, keep="reference", impl="reference", **options).kept)


def test_a_matrix_by_columns_and_more_than_one_dtype() -> None:
    for x in (groups(160, 9).T.contiguous().T, groups(160, 40)[:, ::4], groups(160, 9).double(), groups(160, 9).half()):
        ours, theirs = semdedup(x, eps=0.05, impl="native"), semdedup(x, eps=0.05, impl="reference")
        assert torch.equal(ours.kept, theirs.kept)
        assert torch.equal(ours.duplicate_of, theirs.duplicate_of)


def test_greedy_with_a_budget_is_left_to_the_reference() -> None:
    x = groups(60, 9)
    with pytest.raises(NotSupportedError, match="farthest first"):
        semdedup(x, budget=10, impl="native")
    assert torch.equal(semdedup(x, budget=10).kept, semdedup(x, budget=10, impl="reference").kept)
