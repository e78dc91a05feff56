"""The CUDA entries of k-means under hostile numbers, in a process of its own: an error, with or without a GPU."""

from __future__ import annotations

import re

import pytest
from adaptinf_kernels import build_info

from tests.kernels.native_hostile import CUDA_ERRORS, F32, F64, I8, I64, outcomes_of, tensor

if not build_info()["native"]:
    pytest.skip(build_info()["reason"], allow_module_level=True)

OUTPUTS = [tensor(I64, 6), tensor(F64, 6), tensor(I64, 3, 2), tensor(I64, 3), tensor(I64, 3), tensor(F64, 3)]
OUTPUTS += [tensor(I64, 2)] * 3


def _entry(name: str, arguments: dict[str, str], changes: dict[str, str]) -> str:
    assert changes.keys() <= arguments.keys()
    return f"_C.{name}({', '.join({**arguments, **changes}.values())})"


def call(**changes: str) -> str:
    """Two problems of 4 and 2 rows and 2 columns, of 2 clusters and 1; all in host memory that claims to be a GPU's."""
    arguments = {
        "x": tensor(F32, 6, 2),
        "cu_rows": "[0, 4, 6]",
        "cu_clusters": "[0, 2, 3]",
        "centroids": tensor(F32, 3, 2),
        "weights": "None",
        "frame": f"[{', '.join([tensor(F64, 2, 2)] + [tensor(F64, 2)] * 4)}]",
        "threshold": tensor(F64, 2),
        "max_iter": "3",
        "options": "(False, 1, False, False)",
        "outputs": f"[{', '.join(OUTPUTS)}]",
        "workspace": tensor(I8, 1 << 16),
        "stream": "0",
    }
    return _entry("kmeans_fit_cuda", arguments, changes)


def assign(**changes: str) -> str:
    """The two nearest clusters of two problems of 4 and 2 rows and 2 columns, of 2 clusters each."""
    arguments = {
        "x": tensor(F32, 6, 2),
        "cu_rows": "[0, 4, 6]",
        "cu_clusters": "[0, 2, 4]",
        "centroids": tensor(F32, 4, 2),
        "origin": tensor(F64, 2, 2),
        "options": "(False, False)",
        "ids": tensor(I64, 6, 2),
        "distances": tensor(F64, 6, 2),
        "workspace": tensor(I8, 1 << 16),
        "stream": "0",
    }
    return _entry("kmeans_assign_cuda", arguments, changes)


def of_rows(name: str, **changes: str) -> str:
    """What is found of the rows of two problems of 4 and 2 rows and 2 columns."""
    rows = {"x": tensor(F32, 6, 2), "cu_rows": "[0, 4, 6]", "bounds": tensor(I64, 3)}
    arguments = {
        "extremes": {**rows, "low": tensor(F64, 2, 2), "high": tensor(F64, 2, 2), "bad": tensor(I64, 2)},
        "column_sums": {**rows, "scale": tensor(F64, 2), "sums": tensor(I64, 2, 2)},
        "square_sums": {
            **rows,
            "origin": tensor(F64, 2, 2),
            "scale": tensor(F64, 2),
            "spherical": "False",
            "sums": tensor(I64, 2),
        },
        "distances": {
            "x": tensor(F32, 6, 2),
            "bounds": tensor(I64, 2),
            "origin": tensor(F64, 1, 2),
            "centroids": tensor(F64, 3, 2),
            "limit": tensor(F64, 6),
            "spherical": "False",
            "found": tensor(F64, 6, 3),
        },
    }[name]
    return _entry(f"kmeans_{name}_cuda", {**arguments, "stream": "0"}, changes)


HOSTILE = {
    assign(x=tensor(F64, 6, 2)): "x: dtype",
    assign(cu_rows="[0, 7, 6]"): "cu_rows: must not fall",
    assign(cu_clusters="[0, 3, 4]"): "problem 1 has fewer than m clusters",
    assign(cu_clusters="[0, 4]"): "as many as cu_rows",
    assign(centroids=tensor(F32, 4, 3)): r"centroids: must be \[4, 2\]",
    assign(origin=tensor(F64, 1, 2)): r"origin: must be \[2, 2\]",
    assign(ids=tensor(I64, 6)): "ids: needs 2 sizes",
    assign(ids=tensor(I64, 5, 2)): r"ids: must be \[6, 2\]",
    assign(ids=tensor(I64, 6, 0), distances=tensor(F64, 6, 0)): "m: must be from 1",
    assign(ids=f"(P, [6, 2**62], [1, 1], {I64}, 2, 0)"): "overflow|rows overlap",
    assign(distances=tensor(F64, 6, 1)): r"distances: must be \[6, 2\]",
    assign(distances=tensor(F64, 6, 2, device="1, 0")): "distances: must be on the CUDA device",
    assign(workspace=tensor(I8, 100)): r"workspace: must be|no CUDA part",
    of_rows("extremes", x=tensor(F32, 6, 2, device="1, 0")): "x: must be on the CUDA device",
    of_rows("extremes", x=f"(P, [6, 2], [-2, 1], {F32}, 2, 0)"): "x: rows overlap or run backwards",
    of_rows("extremes", bounds=tensor(I64, 2)): r"bounds: must be \[3\]",
    of_rows("extremes", low=tensor(F64, 2, 3)): r"low: must be \[2, 2\]",
    of_rows("extremes", bad=tensor(F64, 2)): "bad: dtype",
    of_rows("column_sums", cu_rows="[]"): "cu_rows: must run from 0 to 6",
    of_rows("column_sums", scale=tensor(F64, 3)): r"scale: must be \[2\]",
    of_rows("column_sums", sums=tensor(I64, 2, 2, pointer="P + 4")): "sums: pointer is not aligned",
    of_rows("square_sums", origin=tensor(F64, 2)): "origin: needs 2 sizes",
    of_rows("square_sums", sums=tensor(I64, 3)): r"sums: must be \[2\]",
    of_rows("distances", centroids=tensor(F64, 3, 3)): r"centroids: must be \[3, 2\]",
    of_rows("distances", limit=tensor(F64, 5)): r"limit: must be \[6\]",
    of_rows("distances", found=tensor(F64, 6, 2)): r"found: must be \[6, 3\]",
    of_rows("distances", bounds="(0, [2], [1], 64, 2, 0)"): "bounds: null pointer",
    of_rows("extremes"): "cuda|CUDA",
    of_rows("column_sums"): "cuda|CUDA",
    of_rows("square_sums"): "cuda|CUDA",
    of_rows("distances"): "cuda|CUDA",
    "_C.kmeans_assign_cuda_workspace(6, 2, 4, 2, 0, False, False)": "m: must be from 1",
    "_C.kmeans_assign_cuda_workspace(6, -2, 4, 2, 1, False, False)": "negative",
    call(x=tensor(F32, 6, 2, device="1, 0")): "x: must be on the CUDA device",
    call(x=tensor(F64, 6, 2)): "x: dtype",
    call(x=tensor(F32, 6, 2, pointer="0")): "x: null pointer",
    call(x=f"(P, [6, 2], [-2, 1], {F32}, 2, 0)"): "x: rows overlap or run backwards",
    call(x=f"(P, [6, 2], [4, 2], {F32}, 2, 0)"): "x: the last stride",
    call(x=f"(P, [2**41, 1], [0, 1], {F32}, 2, 0)"): "x: more than",
    call(cu_rows="[]"): "cu_rows: must run from 0 to 6",
    call(cu_rows="[0, 4, 5]"): "cu_rows: must run from 0 to 6",
    call(cu_rows="[0, 7, 6]"): "cu_rows: must not fall",
    call(cu_rows="[0, -1, 6]"): "cu_rows: must not fall",
    call(cu_rows="[0, 2**70, 6]"): "incompatible",
    call(cu_clusters="[0, 3]"): "as many as cu_rows",
    call(cu_clusters="[0, 3, 3]"): "problem 1 has rows and no clusters",
    call(cu_clusters="[1, 2, 3]"): "cu_clusters: must run from 0",
    call(cu_clusters="[0, 2, 2**31]"): "more than 2.30 clusters",
    call(centroids=tensor(F32, 3, 3)): r"centroids: must be \[3, 2\]",
    call(centroids=f"(P, [3, 2], [4, 1], {F32}, 2, 0)"): "centroids: must be contiguous",
    call(centroids=tensor(F32, 3, 2, device="2, 1")): "centroids: must be on the CUDA device of x",
    call(weights=tensor(F64, 5)): r"weights: must be \[6\]",
    call(frame="[]"): "frame: must be origin",
    call(frame=f"[{', '.join([tensor(F64, 2)] * 5)}]"): "origin: needs 2 sizes",
    call(threshold=tensor(F32, 2)): "threshold: dtype",
    call(max_iter="-1"): "max_iter: is negative",
    call(options="(False, 3, False, False)"): "empty: must be",
    call(outputs="[]"): "outputs: must be nine",
    call(outputs=f"[{', '.join([tensor(I64, 5), *OUTPUTS[1:]])}]"): r"labels: must be \[6\]",
    call(outputs=f"[{', '.join([tensor(I64, 6, pointer='P + 4'), *OUTPUTS[1:]])}]"): "labels: pointer is not aligned",
    call(workspace=tensor(I8, 100)): r"workspace: must be|no CUDA part",
    "_C.kmeans_fit_cuda_workspace(-1, 2, 3, 1, False, False)": "negative",
    "_C.kmeans_fit_cuda_workspace(2**41, 2, 3, 1, False, False)": "beyond its limit",
    call(workspace=f"(P, [SIZE], [1], {I8}, 2, 0)"): "cuda|CUDA",
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    size = "SIZE = _C.kmeans_fit_cuda_workspace(6, 2, 3, 2, False, False) if _C.build_info()['cuda']['built'] else 1"
    return outcomes_of(HOSTILE, setup=[size], errors=CUDA_ERRORS)


@pytest.mark.parametrize("one", HOSTILE)
def test_hostile_numbers_raise(outcomes: dict[str, str], one: str) -> None:
    assert re.search(HOSTILE[one], outcomes[one])
