"""The native k-means under hostile numbers, in a process of their own: an error, never a crash."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from adaptinf_kernels import build_info

from tests.kernels.native_hostile import F32, F64, I64, outcomes_of
from tests.kernels.sanitizers import run_sanitized

if not build_info()["native"]:
    pytest.skip(build_info()["reason"], allow_module_level=True)


def written(*shape: int, dtype: int = I64, at: str = "Q") -> str:
    strides = [*shape[1:], 1]
    return f"({at}, {list(shape)}, {strides}, {dtype}, 1, 0)"


def read(*shape: int, dtype: int = F64) -> str:
    return written(*shape, dtype=dtype, at="P")


AWAY = written(4, 2, dtype=F64)
FRAME = [read(1, 3), read(1), read(1), read(1), read(1)]
FIT = {
    "x": read(4, 3, dtype=F32),
    "cu_rows": written(2, at="ROWS"),
    "cu_clusters": written(2, at="CLUSTERS"),
    "centroids": written(2, 3, dtype=F32),
    "weights": "None",
    "frame": f"[{', '.join(FRAME)}]",
    "threshold": read(1),
    "by_inertia": "False",
    "max_iter": "2",
    "empty": "'farthest'",
    "spherical": "False",
    "fast": "False",
    "outputs": f"[{', '.join([*map(written, (4, 2, 2)), written(2, dtype=F64), *map(written, (1, 1, 1))])}]",
    "known": "None",
    "threads": "2",
    "cpu_level": "''",
    "screen": "''",
}
ASSIGN = {name: FIT[name] for name in ("x", "cu_rows", "cu_clusters", "centroids")} | {
    "origin": read(1, 3),
    "m": "2",
    "spherical": "False",
    "fast": "False",
    "ids": written(4, 2),
    "distances": written(4, 2, dtype=F64),
    "threads": "1",
}


PLUS_PLUS = {name: FIT[name] for name in ("x", "cu_rows", "cu_clusters", "weights", "frame")} | {
    "draws": written(3, at="FEW"),
    "cu_draws": written(2, at="DRAWS"),
    "spherical": "False",
    "ids": written(2),
    "threads": "2",
    "cpu_level": "''",
    "screen": "''",
}


def call(function: str, defaults: dict[str, str], changes: dict[str, str]) -> str:
    assert changes.keys() <= defaults.keys()
    return f"_C.kmeans_{function}({', '.join({**defaults, **changes}.values())})"


def fit(**changes: str) -> str:
    return call("fit", FIT, changes)


def assign(**changes: str) -> str:
    return call("assign", ASSIGN, changes)


def plus_plus(**changes: str) -> str:
    return call("plus_plus", PLUS_PLUS, changes)


def outputs(place: int, other: str) -> str:
    parts = [*map(written, (4, 2, 2)), written(2, dtype=F64), *map(written, (1, 1, 1))]
    parts[place] = other
    return f"[{', '.join(parts)}]"


def frame(place: int, other: str) -> str:
    return f"[{', '.join([*FRAME[:place], other, *FRAME[place + 1 :]])}]"


def known(place: int, other: str) -> str:
    parts = [read(4, dtype=I64), written(4, dtype=F64), written(4, dtype=F64), written(1)]
    parts[place] = other
    return f"[{', '.join(parts)}]"


HOSTILE = {
    fit(x=f"(0, [4, 3], [3, 1], {F32}, 1, 0)"): "x: null pointer",
    fit(x=f"(P, [4, -3], [3, 1], {F32}, 1, 0)"): "x: a size is negative",
    fit(x=f"(P, [4, 3], [3, 2], {F32}, 1, 0)"): "x: the last stride",
    fit(x=f"(P, [4, 3], [-3, 1], {F32}, 1, 0)"): "x: rows overlap or run backwards",
    fit(x=f"(P, [4, 3], [2**62, 1], {F32}, 1, 0)"): "x.*overflows",
    fit(x=f"(P + 2, [4, 3], [3, 1], {F32}, 1, 0)"): "x: pointer is not aligned",
    fit(x=read(4, 3, dtype=I64)): "x: dtype",
    fit(x=f"(P, [4, 3], [3, 1], {F32}, 2, 0)"): "x: must be on the CPU",
    fit(x=read(5, 3, dtype=F32)): "cu_rows: must run from 0 to 5",
    fit(cu_rows=written(1, at="ROWS")): "cu_rows: must run",
    fit(cu_rows=written(0, at="ROWS")): "cu_rows: must hold",
    fit(cu_rows=written(3, at="FALLING")): "cu_rows: must not fall",
    fit(cu_clusters=written(2, at="ROWS")): "cu_clusters: must run from 0 to 2",
    fit(cu_clusters=written(3, at="DOUBLE")): "cu_clusters: must be as long",
    fit(cu_rows=written(3, at="NONE"), cu_clusters=written(3, at="SECOND"), frame="[]"): "frame: must be",
    fit(centroids=written(2, 4, dtype=F32)): "centroids: must be",
    fit(centroids=f"(Q, [2, 3], [2, 1], {F32}, 1, 0)"): "centroids: rows overlap",
    fit(
        cu_rows=written(3, at="NONE"),
        cu_clusters=written(3, at="SECOND"),
        frame=f"[{read(2, 3)}, {read(2)}, {read(2)}, {read(2)}, {read(2)}]",
        threshold=read(2),
        outputs=f"[{', '.join([*map(written, (4, 2, 2)), written(2, dtype=F64), *map(written, (2, 2, 2))])}]",
    ): "a problem needs at least one",
    fit(weights=read(3)): r"weights: must be \[4\]",
    fit(weights=read(4, dtype=F32)): "weights: dtype",
    fit(frame=frame(0, read(1, 2))): r"origin: must be \[1, 3\]",
    fit(frame=frame(1, read(2))): r"sum_scale: must be \[1\]",
    fit(frame=frame(4, f"(0, [1], [1], {F64}, 1, 0)")): "rounding: null",
    fit(threshold=read(2)): "threshold: must be",
    fit(max_iter="-1"): "max_iter",
    fit(max_iter="2**64"): "incompatible",
    fit(empty="'random'"): "empty 'random'",
    fit(threads="0"): "threads",
    fit(threads="10**9"): "threads",
    fit(cpu_level="'sse9'"): "choose from portable",
    fit(screen="'int8'"): "screen 'int8'",
    fit(cpu_level="'portable'", screen="'bfloat16'"): "no AVX512-BF16",
    fit(outputs="[]"): "outputs: must be",
    fit(outputs=outputs(0, written(3))): r"labels: must be \[4\]",
    fit(outputs=outputs(0, "(Q, [4], [2], 64, 1, 0)")): "labels: the last stride",
    fit(outputs=outputs(1, written(3))): "sizes: must be",
    fit(outputs=outputs(3, written(2))): "radii: dtype",
    fit(outputs=outputs(6, f"(0, [1], [1], {I64}, 1, 0)")): "changed: null",
    fit(known="[]"): "known: must be labels",
    fit(known=known(0, read(3, dtype=I64))): r"known labels: must be \[4\]",
    fit(known=known(0, read(4))): "known labels: dtype",
    fit(known=known(0, written(4, at="FALLING"))): "known labels: 5 of row 1 is no cluster",
    fit(known=known(0, written(4, at="LESS"))): "known labels: -2 of row 3 is no cluster",
    fit(known=known(1, written(3, dtype=F64))): "known upper: must be",
    fit(known=known(2, written(4))): "known lower: dtype",
    fit(known=known(3, f"(0, [1], [1], {I64}, 1, 0)")): "products: null",
    assign(m="0"): "m: must be from 1",
    assign(m="3"): "m: must be from 1",
    assign(ids=written(4, 1)): "ids: must be",
    assign(ids="(Q, [4, 2], [3, 1], 64, 1, 0)"): "ids: must be contiguous",
    assign(distances=written(4, 2)): "distances: dtype",
    assign(origin=read(2, 3)): "origin: must be",
    plus_plus(ids=written(2, dtype=F64)): "ids: dtype",
    plus_plus(ids=written(3)): "cu_clusters: must run from 0 to 3",
    plus_plus(ids=f"(0, [2], [1], {I64}, 1, 0)"): "ids: null",
    plus_plus(draws=written(3, at="LESS")): "cu_draws: must run from 0 to 3|draws: must not be negative",
    plus_plus(draws=written(4, at="LESS"), cu_draws=written(2, at="ROWS")): "draws: must not be negative",
    plus_plus(draws=read(3)): "draws: dtype",
    plus_plus(cu_draws=written(2, at="CLUSTERS")): "cu_draws: must run from 0 to 3",
    plus_plus(draws=written(1, at="FEW"), cu_draws=written(2, at="ONE")): "cu_draws: a problem needs one draw",
    plus_plus(cu_draws=written(3, at="DOUBLE"), draws=written(2, at="FEW")): "must be as long as cu_rows",
    plus_plus(ids=written(5), cu_clusters=written(2, at="FIVE")): "from one cluster to as many as rows",
    plus_plus(weights=read(3)): r"weights: must be \[4\]",
    plus_plus(frame="[]"): "frame: must be",
    plus_plus(threads="0"): "threads",
    f"_C.kmeans_extremes({FIT['x']}, {FIT['cu_rows']}, [], 1)": "outputs: must be",
    f"_C.kmeans_column_sums({FIT['x']}, {FIT['cu_rows']}, {read(2)}, {written(1, 3)}, 1)": "scale: must be",
    f"_C.kmeans_hashes({FIT['x']}, {written(3)}, 1)": r"out: must be \[4\]",
    f"_C.kmeans_square_sums({FIT['x']}, {FIT['cu_rows']}, {read(1, 3)}, {read(1)}, False, {written(2)}, 1)": "sums",
    f"_C.kmeans_distances({FIT['x']}, {read(1, 3)}, {read(2, 3)}, {read(3)}, False, {AWAY}, 1)": "limit",
    f"_C.kmeans_accumulate({FIT['x']}, {read(2, 3)}, None, {FIT['frame']}, False, False, [], 1)": "outputs: must be",
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    bounds = [
        "numbers = 0, 4, 0, 2, 0, 5, 4, 0, 1, 2, 0, 4, 4, 0, 0, 2, 0, 1, -1, -2, 0, 3, 5, 2**62, 0, 1, 0, 5",
        "bounds = (ctypes.c_int64 * len(numbers))(*numbers)",
        "places = (ctypes.addressof(bounds) + 8 * at for at in (0, 2, 4, 7, 10, 13, 16, 20, 21, 24, 26))",
        "ROWS, CLUSTERS, FALLING, DOUBLE, NONE, SECOND, LESS, DRAWS, FEW, ONE, FIVE = places",
    ]
    right = [fit(), fit(known=known(0, read(4, dtype=I64))), assign(), plus_plus()]
    return outcomes_of(HOSTILE, setup=bounds, right=right)


@pytest.mark.parametrize("one", HOSTILE)
def test_hostile_numbers_raise(outcomes: dict[str, str], one: str) -> None:
    assert re.search(HOSTILE[one], outcomes[one])


@pytest.mark.slow
def test_no_sanitizer_complains(repository: Path, tmp_path: Path) -> None:
    """Every primitive on memory of exactly the inputs' sizes, under AddressSanitizer and UBSan."""
    sources = ["kmeans", "common/parallel.cpp", "grad_sketch/kernels_cpu.cpp"]
    assert run_sanitized(repository, tmp_path, "native_kmeans_driver.cpp", sources) >= 14 * 4 * 6 * 2 * 3
