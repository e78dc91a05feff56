"""Every op of the sketches, by every implementation, against the defined matrix and exact gradients."""

from __future__ import annotations

import pytest
import torch
from adaptinf_kernels import (
    Sketch,
    grad_sketch_bias,
    grad_sketch_embedding,
    grad_sketch_linear,
    grad_sketch_norm,
    project,
)

from tests.kernels import sketch_cases as cases
from tests.kernels import sketch_oracle as oracle
from tests.kernels.sketch_cases import PROBLEMS, ident

BY_IMPLEMENTATION = [
    pytest.param(*case.values, impl, id=f"{case.id}-{impl}")
    for op in cases.OPS
    for impl in cases.implementations(op)
    for case in cases.cases(op)
]
ONE_OF_EACH = {
    "linear": cases.linear([7, 31, 1, 0, 64, 5], 37, 19),
    "linear adam": cases.linear([7, 31, 1, 0, 64, 5], 37, 19, "adam"),
    "lora": cases.lora([7, 31, 1, 0, 64, 5], 37, 19, 4),
    "lora less": cases.lora([7, 31, 1, 0, 64, 5], 37, 19, 4, "less", dora=True),
    "embedding": cases.embedding([7, 31, 1, 0, 64, 5], 23, 19),
    "bias": cases.bias([7, 31, 1, 0, 64, 5], 37),
    "norm": cases.norm([7, 31, 1, 0, 64, 5], 37, "diagonal"),
    "project": cases.projection(6, 37, 19),
}
ONE_OF_A_KIND = [
    Sketch("sjlt", 60, nonzeros=4),
    Sketch("rademacher", 77),
    Sketch("xorts", 64),
    Sketch("kron", 24, min_side=1),
]
EACH = [
    pytest.param(name, sketch, impl, id=f"{name}-{ident(sketch)}-{impl}")
    for name, problem in ONE_OF_EACH.items()
    for impl in cases.implementations(problem.op)
    for sketch in ONE_OF_A_KIND
    if cases.takes(problem, sketch)
]


@pytest.mark.parametrize(("name", "sketch", "impl"), BY_IMPLEMENTATION)
def test_equals_the_sketch_of_the_exact_gradients(name: str, sketch: Sketch, impl: str) -> None:
    problem = PROBLEMS[name]
    found = oracle.check(problem, sketch, impl)
    empty = torch.tensor(problem.lengths) == 0
    assert not found.sketch[empty].any()
    again = problem.run(sketch, impl, return_norms=True)
    assert torch.equal(again.sketch, found.sketch)
    if found.squared_norms is not None and again.squared_norms is not None:
        assert not found.squared_norms[empty].any()
        assert torch.equal(again.squared_norms, found.squared_norms)
        assert torch.equal(problem.run(sketch, impl).sketch, found.sketch)


@pytest.mark.parametrize(("name", "sketch", "impl"), EACH)
def test_a_sample_does_not_see_its_neighbours(name: str, sketch: Sketch, impl: str) -> None:
    problem = ONE_OF_EACH[name]
    whole = problem.run(sketch, impl, return_norms=True)
    for order in ([0], [4], [3], [4, 1, 0], [5, 4, 3, 2, 1, 0], [1] * 4, [2, 4, 2, 4, 2]):
        some = problem.only(order).run(sketch, impl, return_norms=True)
        assert torch.equal(some.sketch, whole.sketch[order])
        if whole.squared_norms is not None and some.squared_norms is not None:
            assert torch.equal(some.squared_norms, whole.squared_norms[order])


@pytest.mark.parametrize(("name", "sketch", "impl"), [case for case in EACH if case.values[2] != "reference"])
def test_the_number_of_threads_does_not_matter(name: str, sketch: Sketch, impl: str) -> None:
    """Of the optimised implementations: a matrix product of torch, which the reference uses, may round differently."""
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(threads)
            found.append(ONE_OF_EACH[name].run(sketch, impl, return_norms=True))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert torch.equal(other.sketch, found[0].sketch)
        if other.squared_norms is not None and found[0].squared_norms is not None:
            assert torch.equal(other.squared_norms, found[0].squared_norms)


@pytest.mark.parametrize(("name", "sketch", "impl"), EACH)
def test_the_layout_in_memory_does_not_matter(name: str, sketch: Sketch, impl: str) -> None:
    problem = ONE_OF_EACH[name]
    expected = problem.run(sketch, impl, return_norms=True)

    def spread(tensor: torch.Tensor) -> torch.Tensor:
        """The same numbers with odd strides, from an odd place."""
        room = torch.full([2 * size + 1 for size in tensor.shape], 77, dtype=tensor.dtype)
        view = room[tuple(slice(1, None, 2) for _ in tensor.shape)]
        return view.copy_(tensor)

    def permuted(tensor: torch.Tensor) -> torch.Tensor:
        back = list(reversed(range(tensor.dim())))
        return tensor.permute(back).contiguous().permute(back)

    for change in (spread, permuted):
        tokens = {key: change(tensor) for key, tensor in problem.tokens.items()}
        assert any(not tensor.is_contiguous() for tensor in tokens.values())
        found = oracle.replace(problem, tokens=tokens).run(sketch, impl, return_norms=True)
        assert torch.equal(found.sketch, expected.sketch)
        if expected.squared_norms is not None and found.squared_norms is not None:
            assert torch.equal(found.squared_norms, expected.squared_norms)


@pytest.mark.parametrize(("name", "sketch", "impl"), EACH)
def test_expanded_tokens(name: str, sketch: Sketch, impl: str) -> None:
    """One token repeated with a stride of zero, as the gradient of a mean is."""
    problem = ONE_OF_EACH[name]
    tokens = {key: tensor[:1].expand(tensor.shape) for key, tensor in problem.tokens.items()}
    found, expected = (
        oracle.replace(problem, tokens=some).run(sketch, impl).sketch
        for some in (tokens, {key: tensor.contiguous() for key, tensor in tokens.items()})
    )
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize(("name", "sketch", "impl"), EACH)
def test_dtypes(name: str, sketch: Sketch, impl: str, dtype: torch.dtype) -> None:
    """Half precisions are widened before anything is added, so the error is that of float32."""
    oracle.check(ONE_OF_EACH[name].cast(dtype), sketch, impl)


@pytest.mark.parametrize(("name", "sketch", "impl"), EACH)
def test_offsets_beyond_32_bits(name: str, sketch: Sketch, impl: str, tmp_path) -> None:
    """Strides that reach past 2^31 elements, in a sparse file that has the few pages that are touched."""
    problem = ONE_OF_EACH[name].only([2, 5] if name != "project" else [0, 1])
    expected = problem.run(sketch, impl).sketch
    tokens = {}
    for number, (key, tensor) in enumerate(problem.tokens.items()):
        rows = 2**31 // (len(tensor) - 1) + 4096
        place = torch.from_file(str(tmp_path / str(number)), True, rows * len(tensor), dtype=tensor.dtype)
        strides = (rows, *tensor.stride()[1:])
        tokens[key] = place.as_strided(tensor.shape, strides)
        assert (len(tensor) - 1) * strides[0] > 2**31
        tokens[key].copy_(tensor)
    assert torch.equal(oracle.replace(problem, tokens=tokens).run(sketch, impl).sketch, expected)


@pytest.mark.parametrize("kind", ["columns", "cu_seqlens"])
@pytest.mark.parametrize("impl", cases.implementations("grad_sketch_linear"))
def test_other_strides_beyond_32_bits(impl: str, kind: str, tmp_path) -> None:
    problem, sketch = ONE_OF_EACH["linear"].only([5]), Sketch("sjlt", 60, nonzeros=4)
    expected = problem.run(sketch, impl).sketch
    if kind == "columns":
        x = problem.tokens["x"]
        width = 2**31 // (x.shape[1] - 1) + 4096
        place = torch.from_file(str(tmp_path / "x"), True, width * x.shape[1], dtype=x.dtype)
        far = place.as_strided(x.shape, (1, width)).copy_(x)
        problem = oracle.replace(problem, tokens={**problem.tokens, "x": far})
        assert torch.equal(problem.run(sketch, impl).sketch, expected)
    else:
        place = torch.from_file(str(tmp_path / "bounds"), True, 2**31 + 4096, dtype=torch.int64)
        bounds = place.as_strided((2,), (2**31 + 1,)).copy_(torch.tensor([0, 5]))
        found = grad_sketch_linear(**problem.tokens, cu_seqlens=bounds, sketch=sketch, name="layer.weight", impl=impl)
        assert torch.equal(found.sketch, expected)


@pytest.mark.parametrize(("name", "sketch", "impl"), EACH)
def test_a_nan_stays_in_its_sample(name: str, sketch: Sketch, impl: str) -> None:
    for poison in (torch.nan, torch.inf):
        problem = ONE_OF_EACH[name].only([0, 1, 5])
        key = next(key for key, tensor in problem.tokens.items() if tensor.is_floating_point())
        tokens = {**problem.tokens, key: problem.tokens[key].clone()}
        tokens[key][problem.lengths[0] + 1 if name != "project" else 1].view(-1)[0] = poison
        found = oracle.replace(problem, tokens=tokens).run(sketch, impl, return_norms=True)
        assert not found.sketch[1].isfinite().all()
        assert torch.equal(found.sketch[[0, 2]], problem.run(sketch, impl).sketch[[0, 2]])
        if found.squared_norms is not None:
            assert found.squared_norms.isfinite().tolist() == [True, False, True]


@pytest.mark.parametrize(("name", "sketch", "impl"), [case for case in EACH if "project" not in str(case.id)])
def test_add_to_sums_over_parameters(name: str, sketch: Sketch, impl: str) -> None:
    problem = ONE_OF_EACH[name]
    alone, total = problem.run(sketch, impl).sketch, torch.full((6, sketch.k), 0.5)
    found = problem.run(sketch, impl, add_to=total)
    assert found.sketch is total
    assert torch.equal(total, 0.5 + alone)
    with pytest.raises(ValueError, match="add_to"):
        problem.run(sketch, impl, add_to=torch.zeros(3, sketch.k))


@pytest.mark.parametrize("impl", cases.implementations("grad_sketch_vector"))
def test_a_vector_is_the_weight_of_one_row(impl: str) -> None:
    """A bias is the Linear weight of an input of ones, transposed."""
    sketch, problem = Sketch("sjlt", 32), ONE_OF_EACH["bias"]
    bounds = torch.tensor([0, *torch.tensor(problem.lengths).cumsum(0)])
    g = problem.tokens["grad_out"]
    found = grad_sketch_bias(g, bounds, sketch, name="b", impl=impl).sketch
    as_weight = grad_sketch_linear(g, torch.ones(len(g), 1), bounds, sketch, name="b").sketch
    as_norm = grad_sketch_norm(torch.ones_like(g), g, bounds, sketch, name="b", impl=impl).sketch
    for other in (as_weight, as_norm):
        torch.testing.assert_close(found, other, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("impl", cases.implementations("project"))
@pytest.mark.parametrize("sketch", ONE_OF_A_KIND, ids=ident)
def test_project_takes_flat_rows_and_leaves_entries_unscaled(sketch: Sketch, impl: str) -> None:
    rows = cases.random(3, 14, 30)
    with oracle.skip_unsupported():
        expected = project(rows, sketch, name="w", impl=impl)
    assert torch.equal(project(rows.flatten(1), sketch, name="w", shape=(14, 30), impl=impl), expected)
    S = project(torch.eye(30), sketch, name="w", shape=(5, 6), scale=False, impl=impl)
    expected = oracle.dense(oracle.matrix(sketch, "w", (5, 6))).T / sketch.scale
    assert torch.equal(S, torch.from_numpy(expected).round().float())


@pytest.mark.parametrize("impl", cases.implementations("grad_sketch_embedding"))
def test_a_tied_table_is_embedding_plus_head(impl: str) -> None:
    """The gradient of one table used twice, from autograd, under one name."""
    generator = torch.Generator().manual_seed(3)
    table = torch.randn(29, 12, generator=generator, dtype=torch.float64, requires_grad=True)
    ids = torch.randint(29, (20,), generator=generator)
    labels = torch.randint(29, (20,), generator=generator)
    bounds, sketch = torch.tensor([0, 8, 20]), Sketch("sjlt", 32)
    exact = []
    for start, stop in ((0, 8), (8, 20)):
        logits = torch.tanh(table[ids[start:stop]]) @ table.T
        loss = torch.nn.functional.cross_entropy(logits, labels[start:stop])
        exact.append(torch.autograd.grad(loss, table)[0])
    embedded = table[ids].detach().requires_grad_()
    hidden = torch.tanh(embedded)
    logits = hidden @ table.detach().T
    logits.retain_grad()
    hidden.retain_grad()
    weights = torch.tensor([1 / 8] * 8 + [1 / 12] * 12, dtype=torch.float64)
    (torch.nn.functional.cross_entropy(logits, labels, reduction="none") * weights).sum().backward()
    assert embedded.grad is not None and logits.grad is not None
    total = torch.zeros(2, 32)
    options = {"name": "table", "add_to": total}
    grad_sketch_embedding(ids, embedded.grad.float(), bounds, sketch, vocabulary=29, impl=impl, **options)
    grad_sketch_linear(hidden.detach().float(), logits.grad.float(), bounds, sketch, **options)
    expected = torch.stack(exact).flatten(1).numpy() @ oracle.dense(oracle.matrix(sketch, "table", (29, 12))).T
    torch.testing.assert_close(total, torch.from_numpy(expected).float(), rtol=1e-5, atol=1e-6)
