"""What a sketch is: its fields and identity, golden vectors of every kind, and the structure that the README states."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch
from adaptinf_kernels import Sketch, grad_sketch_linear, project
from adaptinf_kernels.sketch import columns, tables
from adaptinf_kernels.sketch.transforms import walsh_hadamard

from tests.kernels import sketch_cases as cases
from tests.kernels import sketch_oracle as oracle
from tests.kernels.sketch_cases import ident

# Golden vectors. A change of any of these makes stored features wrong: then ``LAYOUT`` must change too.

WRITTEN_OUT = {
    Sketch("sjlt", 6): [
        "000+00+0000+",
        "0000-0000000",
        "00000+000000",
        "00+0000+0+00",
        "-000000000-0",
        "0-000000+000",
    ],
    Sketch("sjlt", 8, seed=5, nonzeros=2): [
        "000+0-000+0-",
        "00-0+000+0+0",
        "0-00000-0000",
        "+00000-00000",
        "000--0000-00",
        "00+00+00-000",
        "-000000+00+0",
        "0+0000+0000-",
    ],
    Sketch("rademacher", 5, seed=1): [
        "--++-----+++",
        "-+-+----+---",
        "++-----++--+",
        "+-+---++++--",
        "+---+-+----+",
    ],
    Sketch("xorts", 4): [
        "00+00+00000-",
        "000++00000-0",
        "0+0000+0-000",
        "+000000+0-00",
    ],
    Sketch("xorts", 8, seed=2**63 - 1, repetitions=2): [
        "00-000000000",
        "+00+0-00+000",
        "00000+0-00+0",
        "-00000-0+00-",
        "0+000000000-",
        "0-00000000-0",
        "000-00-00-00",
        "00-0000+0-00",
    ],
    Sketch("kron", 6, min_side=1): [
        "---++++-+++-",
        "----++++++++",
        "+-++-+---+--",
        "+++-+++----+",
        "++++++++----",
        "-+---+--+-++",
    ],
}
HASHES = {
    Sketch("sjlt", 64): "40503538331c8f80",
    Sketch("sjlt", 60, seed=5, nonzeros=4): "763f3045f49238f1",
    Sketch("sjlt", 1009, seed=3): "d3247fdaa1736d0d",
    Sketch("rademacher", 50, seed=1): "ad951b99bd4df0c1",
    Sketch("xorts", 64, repetitions=2): "d1d36213077af040",
    Sketch("kron", 64, seed=2**63 - 1, min_side=1): "80b626fa38a8b2c2",
}


def entries(sketch: Sketch, name: str, shape: tuple[int, int], impl: str) -> np.ndarray:
    """int8 [k, D]: the entries before scaling, as sketches of unit vectors."""
    size = shape[0] * shape[1]
    units = torch.eye(size).view(size, *shape)
    with oracle.skip_unsupported():
        return project(units, sketch, name=name, scale=False, impl=impl).T.to(torch.int8).numpy()


@pytest.mark.parametrize("impl", cases.implementations("project"))
@pytest.mark.parametrize("sketch", WRITTEN_OUT, ids=ident)
def test_golden_matrices(sketch: Sketch, impl: str) -> None:
    """S of a weight of 3 x 4 named "layer.weight", one row of S a line."""
    rows = ["".join("-0+"[entry + 1] for entry in row) for row in entries(sketch, "layer.weight", (3, 4), impl)]
    assert rows == WRITTEN_OUT[sketch]
    scaled = oracle.dense(oracle.matrix(sketch, "layer.weight", (3, 4))) / sketch.scale
    assert rows == ["".join("-0+"[round(entry) + 1] for entry in row) for row in scaled]


@pytest.mark.parametrize("impl", cases.implementations("project"))
@pytest.mark.parametrize("sketch", HASHES, ids=ident)
def test_golden_hashes(sketch: Sketch, impl: str) -> None:
    """SHA-256 of the int8 entries of a weight of 40 x 90 in C order."""
    S = np.ascontiguousarray(entries(sketch, "layer.weight", (40, 90), impl))
    assert hashlib.sha256(S.tobytes()).hexdigest()[:16] == HASHES[sketch]


# Structure


@pytest.mark.parametrize(("k", "s"), [(64, 1), (64, 4), (60, 4), (49, 7), (8, 8), (5, 1), (1024, 256)])
def test_sjlt_has_s_distinct_rows_per_column(k: int, s: int) -> None:
    S = entries(Sketch("sjlt", k, nonzeros=s), "w", (40, 50), "reference")
    assert ((S != 0).sum(0) == s).all()
    # every slice of k/s rows holds one of them; a row as many as chance allows, within five standard errors
    assert ((S != 0).reshape(s, k // s, -1).sum(1) == 1).all()
    hits, expected = (S != 0).sum(1), 2000 * s / k
    assert np.abs(hits - expected).max() <= 5 * expected**0.5 + 1
    assert abs(S.sum(dtype=np.int64)) < 5 * (2000 * s) ** 0.5


@pytest.mark.parametrize(("k", "s", "tile"), [(64, 1, (8, 8)), (60, 4, (3, 5)), (33, 1, (3, 11)), (7, 1, (1, 7))])
def test_entries_of_one_tile_never_meet(k: int, s: int, tile: tuple[int, int]) -> None:
    sketch, (p, q) = Sketch("sjlt", k, nonzeros=s), tile
    assert sketch.tile == tile
    S = (entries(sketch, "w", (3 * p, 2 * q), "reference") != 0).reshape(k, 3, p, 2, q)
    assert (S.sum((2, 4)) <= 1).all()  # no row of S has two entries of a tile
    assert S.sum() == s * 6 * p * q


def test_tiles_are_turned_independently() -> None:
    """Where a tile's first entry goes is uniform, and tells nothing of the next tile's."""
    m = 12
    S = oracle.matrix(Sketch("sjlt", m), "w", (3, 4 * 3000))  # one row of tiles
    rows = abs(S).argmax(axis=0)[: 4 * 3000 : 4]
    for sample, cells in ((rows, m), (rows[:-1] * m + rows[1:], m * m)):
        counts = np.bincount(sample, minlength=cells)
        expected = len(sample) / cells
        statistic = ((counts - expected) ** 2 / expected).sum()
        assert abs(statistic - (cells - 1)) < 5 * (2 * (cells - 1)) ** 0.5


def test_xorts_buckets_are_permutations_and_do_not_depend_on_the_size() -> None:
    sketch = Sketch("xorts", 16, repetitions=2)
    codes = tables.xorts_codes(sketch, "w", 0, 50, torch.device("cpu"))
    for first in (0, 16, 32):
        assert ((codes[:, first : first + 16] & 15).sort().values == torch.arange(16)).all()
    assert torch.equal(tables.xorts_codes(sketch, "w", 0, 21, torch.device("cpu")), codes[:, :21])
    assert not torch.equal(codes[0], codes[1])
    assert not torch.equal(codes[:, :16], codes[:, 16:32])


@pytest.mark.parametrize("k", [1, 2, 8, 64, 128, 1024])
def test_walsh_hadamard(k: int) -> None:
    rows = torch.randn(3, k, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    i = torch.arange(k)
    parity = i[:, None] & i[None, :]
    for shift in (8, 4, 2, 1):
        parity ^= parity >> shift
    torch.testing.assert_close(walsh_hadamard(rows), rows @ (1.0 - 2 * (parity & 1)).double())


def test_walsh_hadamard_is_its_own_inverse() -> None:
    rows = torch.randn(2, 8192, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(walsh_hadamard(walsh_hadamard(rows)) / 8192, rows)


# Tables


@pytest.mark.parametrize(
    "sketch", [Sketch("sjlt", 36, nonzeros=3), Sketch("rademacher", 32), Sketch("xorts", 32)], ids=ident
)
@pytest.mark.parametrize("at_once", [8, 21 * 4], ids=["within a row", "some rows"])
def test_blocks_of_a_large_parameter(sketch: Sketch, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables in pieces, too large for the cache, name the same matrix."""
    problem = cases.linear([9, 4], 21, 50)
    monkeypatch.setattr(columns, "_ENTRIES", at_once * {"sjlt": 3, "rademacher": 32, "xorts": 1}[sketch.kind])
    monkeypatch.setattr(tables, "_cache", tables._Cache(500))
    assert len(list(columns.blocks(sketch, (50, 21)))) > 4
    oracle.check(problem, sketch, "reference")
    exact = problem.exact()["layer.weight"]
    expected = oracle.dense(oracle.matrix(sketch, "layer.weight", (50, 21))) @ exact.flatten(1).numpy().T
    found = project(exact, sketch, name="layer.weight", impl="reference")
    torch.testing.assert_close(found, torch.from_numpy(expected.T).float(), rtol=1e-6, atol=1e-5)
    assert tables._cache.bytes <= 500


@pytest.mark.parametrize("shape", [(1, 1), (50, 21), (1, 3000), (3000, 1), (7, 2000)], ids=str)
def test_blocks_cover_each_entry_once(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "_ENTRIES", 1000)
    for sketch in (Sketch("sjlt", 8, nonzeros=2), Sketch("rademacher", 8), Sketch("xorts", 8), Sketch("sjlt", 8)):
        seen = np.zeros(shape, dtype=int)
        for rows, across in columns.blocks(sketch, shape):
            assert len(rows) == 1 or len(across) == shape[1]
            assert 0 < len(rows) * len(across) <= 1000
            seen[rows.start : rows.stop, across.start : across.stop] += 1
        assert (seen == 1).all()


def test_the_cache_is_bounded_and_forgets_the_oldest() -> None:
    cache = tables._Cache(100)
    made: list[int] = []

    def get(i: int, size: int = 40) -> torch.Tensor:
        return cache.get((i,), lambda: made.append(i) or torch.full((size,), i, dtype=torch.int8))

    get(1), get(2), get(1), get(3), get(1)
    assert made == [1, 2, 3]
    assert get(2)[0] == 2
    assert made == [1, 2, 3, 2]
    get(9, size=101), get(9, size=101)
    assert made[-2:] == [9, 9]
    assert cache.bytes <= 100


# The definition object


def test_identity_and_digest() -> None:
    sketch = Sketch(kind="sjlt", k=256, seed=7)
    assert json.loads(json.dumps(sketch.identity)) == {"layout": 2, "kind": "sjlt", "k": 256, "seed": 7, "nonzeros": 1}
    assert sketch.digest == "7de76ba12b697c39086bd0d800a597c67d56570560a431a5faf031bf6787dc77"
    others = [
        Sketch("sjlt", 256), Sketch("sjlt", 128, seed=7), Sketch("sjlt", 256, seed=7, nonzeros=2),
        Sketch("xorts", 256, seed=7),
        Sketch("xorts", 256, seed=7, repetitions=2), Sketch("rademacher", 256, seed=7),
        Sketch("kron", 256, seed=7, min_side=1),
    ]  # fmt: skip
    assert len({sketch.digest, *(other.digest for other in others)}) == 8
    assert Sketch("kron", 4096).digest == Sketch("kron", 4096, min_side=2).digest
    assert Sketch(*sketch.arguments) == sketch
    assert hash(Sketch(*sketch.arguments)) == hash(sketch)
    with pytest.raises(dataclasses.FrozenInstanceError):
        sketch.k = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("k", "sides"), [(4096, (64, 64)), (8192, (64, 128)), (24, (4, 6)), (7, (1, 7)), (1, (1, 1)), (2, (1, 2))]
)
def test_kron_sides(k: int, sides: tuple[int, int]) -> None:
    assert Sketch("kron", k, min_side=1).sides == sides


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "gaussian"}, "choose from sjlt"),
        ({"k": 0}, "k=0"),
        ({"k": 2**31}, "k="),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**63}, "seed="),
        ({"nonzeros": 0}, "nonzeros=0"),
        ({"k": 3, "nonzeros": 4}, "nonzeros=4 must be from 1 to 3"),
        ({"k": 4096, "nonzeros": 512}, "nonzeros=512 must be from 1 to 256"),
        ({"k": 50, "nonzeros": 7}, "must divide k=50; take k=49 or 56"),
        ({"kind": "rademacher", "nonzeros": 2}, "of kind 'sjlt' alone"),
        ({"kind": "xorts", "k": 100}, "power of two for kind 'xorts'; take 64 or 128"),
        ({"kind": "xorts", "repetitions": 5}, "repetitions=5"),
        ({"repetitions": 2}, "of kind 'xorts' alone"),
        ({"kind": "kron", "k": 1024}, "32 x 32"),
        ({"kind": "kron", "k": 8191}, "1 x 8191"),
    ],
)
def test_impossible_sketches(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sketch(**fields)


@pytest.mark.parametrize("fields", [{"k": 3.0}, {"seed": "1"}, {"k": True}])
def test_fields_are_integers(fields: dict) -> None:
    with pytest.raises(TypeError, match="must be an int"):
        Sketch(**fields)


def test_nothing_to_sketch() -> None:
    for sketch in cases.SKETCHES:
        assert project(torch.zeros(0, 2, 3), sketch, name="w").shape == (0, sketch.k)
        assert not project(torch.zeros(2, 0, 3), sketch, name="w").any()
        found = grad_sketch_linear(torch.zeros(0, 3), torch.zeros(0, 2), torch.tensor([0]), sketch, name="w")
        assert found.sketch.shape == (0, sketch.k)
        assert found.squared_norms is None
