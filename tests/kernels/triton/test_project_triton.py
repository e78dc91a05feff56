"""project by Triton, interpreted, against the sketch matrix itself."""

from __future__ import annotations

import pytest
import torch
from adaptinf_kernels import NotSupportedError, Sketch, project
from torch import Tensor

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SJLT, DENSE, XORTS = Sketch("sjlt", 512), Sketch("rademacher", 130), Sketch("xorts", 64, repetitions=2)
CASES = [
    *((SJLT, shape) for shape in ((1, 1), (1, 500), (3, 63), (70, 70), (100, 33))),
    (Sketch("sjlt", 2048, seed=3, nonzeros=2), (40, 70)),
    (Sketch("sjlt", 4096), (1, 1300)),
    (Sketch("sjlt", 8192), (70, 150)),
    (Sketch("rademacher", 1), (1, 1)),
    (Sketch("rademacher", 200, seed=2**63 - 1), (3, 500)),
    (XORTS, (70, 63)),
    (Sketch("xorts", 1), (3, 5)),
    (Sketch("xorts", 512, seed=2**63 - 1), (33, 700)),
]


def gradients(samples: int, shape: tuple[int, int], dtype: torch.dtype, whole: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    size = samples, shape[0] * shape[1]
    values = torch.randint(-8, 9, size, generator=generator) if whole else torch.randn(size, generator=generator)
    return values.to(dtype)


@pytest.mark.parametrize(("sketch", "shape"), CASES, ids=lambda case: getattr(case, "kind", str(case)))
def test_the_matrix_is_the_references(sketch: Sketch, shape: tuple[int, int]) -> None:
    """Sums of whole numbers are exact, so a single wrong sign or place would show."""
    g = gradients(3, shape, torch.bfloat16, whole=True)
    for scale in (False, True):
        found, expected = (
            project(g, sketch, name="w", shape=shape, scale=scale, impl=i) for i in ("triton", "reference")
        )
        assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sketch", [SJLT, DENSE, XORTS], ids=lambda sketch: sketch.kind)
def test_within_twice_the_error_of_float32(sketch: Sketch, dtype: torch.dtype) -> None:
    shape = (20, 130)
    g = gradients(4, shape, dtype) * torch.logspace(-3, 3, shape[0] * shape[1]).to(dtype)
    matrix = project(torch.eye(shape[0] * shape[1]), sketch, shape=shape, scale=False, impl="reference")  # S^T
    exact = g.double() @ matrix.double()
    order = torch.randperm(len(matrix), generator=torch.Generator().manual_seed(0))
    error = (g.float()[:, order] @ matrix[order] - exact).abs().max()
    found = project(g, sketch, shape=shape, scale=False, impl="triton")
    assert (found - exact).abs().max() <= 2 * error + exact.abs().max() * 2**-24


def test_every_bit_of_float32_counts() -> None:
    """A float32 is cut into three bfloat16 of which no bit is lost, down to 2^-109."""
    mantissas = torch.randint(2**23, (4096,), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    exponents = torch.arange(18, 255, dtype=torch.int32).repeat(18)[:4096] << 23
    g = (mantissas | exponents).view(torch.float32)[None]
    sketch = Sketch("sjlt", 4096)
    found = project(g, sketch, shape=(64, 64), impl="triton")
    assert torch.equal(found, project(g, sketch, shape=(64, 64), impl="reference"))


@pytest.mark.parametrize("sketch", [SJLT, DENSE, XORTS], ids=lambda sketch: sketch.kind)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_samples_bits_are_its_own(sketch: Sketch, dtype: torch.dtype) -> None:
    g = gradients(37, (3, 300), dtype)
    whole = project(g, sketch, shape=(3, 300), impl="triton")
    for chosen in ([0], [36, 5], [16, 15, 17, 3]):
        assert torch.equal(project(g[chosen], sketch, shape=(3, 300), impl="triton"), whole[chosen])


@pytest.mark.parametrize("sketch", [SJLT, DENSE, XORTS], ids=lambda sketch: sketch.kind)
def test_many_chunks_add_up(sketch: Sketch) -> None:
    """More chunks than a program adds side by side."""
    shape = 1, {"sjlt": 160_000, "rademacher": 20_000, "xorts": 20_000}[sketch.kind]
    g = gradients(1, shape, torch.float32, whole=True)
    found, expected = (project(g, sketch, shape=shape, impl=impl) for impl in ("triton", "reference"))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("sketch", [SJLT, DENSE, XORTS], ids=lambda sketch: sketch.kind)
def test_layouts(sketch: Sketch) -> None:
    g = gradients(3, (7, 40), torch.float32)
    expected = project(g, sketch, shape=(7, 40), impl="triton")
    for other in (
        g.T.contiguous().T,
        torch.zeros(3, 300)[:, 5:285].copy_(g),
        torch.empty_strided((3, 280), (2**30 + 5, 1)).copy_(g),
    ):
        assert torch.equal(project(other, sketch, shape=(7, 40), impl="triton"), expected)
    one = g[:1].expand(4, 280)
    assert torch.equal(project(one, sketch, shape=(7, 40), impl="triton"), expected[:1].expand(4, -1))
    for empty in ((0, 280), (3, 0)):
        z = project(torch.zeros(empty), sketch, shape=(7, empty[1] // 7), impl="triton")
        assert torch.equal(z, torch.zeros(empty[0], sketch.k))


@pytest.mark.parametrize("sketch", [SJLT, DENSE, XORTS], ids=lambda sketch: sketch.kind)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_not_finite_stays_with_its_sample(sketch: Sketch, value: float, dtype: torch.dtype) -> None:
    g = gradients(3, (1, 280), dtype)
    clean = project(g, sketch, shape=(1, 280), impl="triton")
    g[1, 100] = value
    found, expected = (project(g, sketch, shape=(1, 280), impl=impl) for impl in ("triton", "reference"))
    assert not found[~expected.isfinite()].isfinite().any()
    assert torch.equal(found[::2], clean[::2])


@pytest.mark.parametrize(
    ("sketch", "dtype", "reason"),
    [
        (Sketch("sjlt", 512), torch.float64, "float64"),
        (Sketch("sjlt", 256), torch.float32, "512 to 8192"),
        (Sketch("sjlt", 1000), torch.float32, "512 to 8192"),
        (Sketch("sjlt", 16384), torch.float32, "512 to 8192"),
        (Sketch("xorts", 65536), torch.float32, "up to 32768"),
        (Sketch("kron", 4096), torch.float32, "kron is two products"),
    ],
)
def test_what_it_does_not_do(sketch: Sketch, dtype: torch.dtype, reason: str) -> None:
    with pytest.raises(NotSupportedError, match=reason):
        project(torch.zeros(1, 4, dtype=dtype), sketch, shape=(2, 2), impl="triton")
