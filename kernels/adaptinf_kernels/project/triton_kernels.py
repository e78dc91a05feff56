# To pyright a @triton.jit function never returns.
# pyright: reportGeneralTypeIssues=false
"""Sketches of gradients in memory: sjlt at the speed of reading them, dense signs made where they are multiplied.

A program takes a chunk of the entries, a group of samples and a part of the sketch's rows; `sum_chunks` adds the chunks
in order. A matrix product with signs or zeros and ones is exact but for its sums: a float32 is cut into three bfloat16,
which hold all of its 24 bits (down to 2^-109; below that they are right within 2^-134). Tensor cores truncate as they
add, so their sums are kept short: those of sjlt by the size of a chunk, those of dense signs by a second accumulator.
"""

from __future__ import annotations

import triton
import triton.language as tl
from adaptinf_kernels._triton import Compilation
from adaptinf_kernels.sketch.triton_philox import sign_bits
from adaptinf_kernels.sketch.triton_runs import flipped, multiply, turned_runs

RUNS, TILE_ROWS, TILE_WIDTH = 64, 64, 128
"""Of sjlt: pieces of a weight's rows, one tile long, that are taken at once; the accumulators, samples side by side."""

ENTRIES = 128
"""Columns of a sign matrix that one Philox call gives."""

INNER = 8
"""Steps of the dense kernel between accumulators."""

DENSE_ROWS = 128
DENSE_SAMPLES = {"fp32": 16, "fp16": 64, "bf16": 64}
SUM_CHUNKS, SUM_ENTRIES = 16, 128
WARPS, SUM_WARPS = 8, 4


@triton.jit(do_not_specialize=["key", "n_samples", "steps", "chunk_steps"])
def sjlt(
    gradients, partial, row_stride, n_samples, d_in, n_runs, row_runs, k, key, steps, chunk_steps,
    P: tl.constexpr, Q: tl.constexpr, RUNS: tl.constexpr, ROWS: tl.constexpr, SAMPLES: tl.constexpr, CUT: tl.constexpr,
):  # fmt: skip
    """partial[chunk, sample, :] for slice t: a run of Q entries is turned as it is loaded, and a matrix product with a
    column of one 1 adds it to its row of the slice."""
    chunk, t = tl.program_id(0), tl.program_id(2)
    samples = tl.program_id(1) * SAMPLES + tl.arange(0, SAMPLES)
    sample_live = samples < n_samples
    bases = gradients + samples.to(tl.int64) * row_stride
    places = tl.arange(0, Q)
    total = tl.zeros((ROWS, SAMPLES * Q), tl.float32)
    for step in range(chunk * chunk_steps, min((chunk + 1) * chunk_steps, steps)):
        run = step * RUNS + tl.arange(0, RUNS)
        row, tile = run // row_runs, run % row_runs
        at, column, flip = turned_runs(key, row, tile, t, P, Q)
        live = column < tl.where(run < n_runs, d_in - tile * Q, 0)[:, None]
        starts = bases[None, :] + (row.to(tl.int64) * d_in + tile * Q)[:, None]
        values = tl.load(
            starts[:, :, None] + column[:, None, :], mask=live[:, None, :] & sample_live[None, :, None], other=0.0
        )
        values = flipped(values, flip[:, None, :]).reshape(RUNS, SAMPLES * Q)
        here = at[None, :] == tl.arange(0, ROWS)[:, None]
        total = multiply(here, values, total, CUT)
    place = tl.arange(0, ROWS)[:, None, None] * Q + places[None, None, :]
    out = partial + (chunk * n_samples + samples).to(tl.int64)[None, :, None] * k + t * P * Q
    tl.store(out + place, total.reshape(ROWS, SAMPLES, Q), mask=(place < P * Q) & sample_live[None, :, None])


@triton.jit(do_not_specialize=["key", "first", "n_samples", "steps", "chunk_steps"])
def dense(
    gradients, partial, row_stride, n_samples, n_entries, k, key, first, steps, chunk_steps,
    ROWS: tl.constexpr, ENTRIES: tl.constexpr, SAMPLES: tl.constexpr, INNER: tl.constexpr, CUT: tl.constexpr,
):  # fmt: skip
    """partial[chunk, sample, rows]: signs of domain 0, from column ``ENTRIES first`` on, times the samples."""
    chunk = tl.program_id(0)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    samples = tl.program_id(2) * SAMPLES + tl.arange(0, SAMPLES)
    sample_live = samples < n_samples
    bases = gradients + samples.to(tl.int64) * row_stride
    total = tl.zeros((ROWS, SAMPLES), tl.float32)
    last = min((chunk + 1) * chunk_steps, steps)
    for outer in range(chunk * chunk_steps, last, INNER):
        sums = tl.zeros((ROWS, SAMPLES), tl.float32)
        for step in range(outer, min(outer + INNER, last)):
            block = tl.cast(step, tl.int64)  # the interpreter counts in Python's numbers
            signs = tl.where(sign_bits(key, 0, rows, first + block, ROWS) == 0, 1.0, -1.0)
            entries = block * ENTRIES + tl.arange(0, ENTRIES)
            values = tl.load(
                bases[None, :] + entries[:, None], mask=(entries < n_entries)[:, None] & sample_live[None, :], other=0.0
            )
            sums = multiply(signs, values, sums, CUT)
        total += sums
    out = partial + (chunk * n_samples + samples).to(tl.int64)[None, :] * k + rows[:, None]
    tl.store(out, total, mask=(rows < k)[:, None] & sample_live[None, :])


@triton.jit(do_not_specialize=["n_entries", "n_chunks"])
def sum_chunks(partial, out, n_entries, n_chunks, CHUNKS: tl.constexpr, ENTRIES: tl.constexpr):
    """out[i] = the sum of partial[chunk, i]."""
    entries = tl.program_id(0).to(tl.int64) * ENTRIES + tl.arange(0, ENTRIES)
    total = tl.zeros((CHUNKS, ENTRIES), tl.float32)
    for first in range(0, n_chunks, CHUNKS):
        chunks = first + tl.arange(0, CHUNKS)
        total += tl.load(
            partial + chunks.to(tl.int64)[:, None] * n_entries + entries[None, :],
            mask=(chunks < n_chunks)[:, None] & (entries < n_entries)[None, :],
            other=0.0,
        )
    tl.store(out + entries, tl.sum(total, axis=0), mask=entries < n_entries)


def compilations() -> list[Compilation]:
    """Of sjlt for slices of 512, 4096 and 8192 rows, of dense signs for any k."""
    integers = {"row_stride": "i64", "n_samples": "i32", "k": "i32", "key": "i64", "steps": "i32", "chunk_steps": "i32"}
    found = []
    for dtype, dense_samples in DENSE_SAMPLES.items():
        pointers = {"gradients": f"*{dtype}", "partial": "*fp32"}
        for p, q in ((16, 32), (64, 64), (64, 128)):
            constants = {
                "P": p, "Q": q, "RUNS": RUNS, "ROWS": TILE_ROWS, "SAMPLES": TILE_WIDTH // q, "CUT": dtype == "fp32"
            }  # fmt: skip
            shapes = {"d_in": "i32", "n_runs": "i32", "row_runs": "i32"}
            signature = {**pointers, **integers, **shapes, **dict.fromkeys(constants, "constexpr")}
            name = f"sjlt, {p} x {q}, {dtype}"
            found.append(Compilation(name, sjlt, signature, constants, WARPS, 1, ("gradients", "partial", "k")))
        constants = {
            "ROWS": DENSE_ROWS, "ENTRIES": ENTRIES, "SAMPLES": dense_samples, "INNER": INNER, "CUT": dtype == "fp32"
        }  # fmt: skip
        signature = {
            **pointers,
            **integers,
            "n_entries": "i64",
            "first": "i64",
            **dict.fromkeys(constants, "constexpr"),
        }
        divisible = ("gradients", "partial", "row_stride", "n_entries", "k")
        found.append(Compilation(f"dense, {dtype}", dense, signature, constants, WARPS, 1, divisible))
    constants = {"CHUNKS": SUM_CHUNKS, "ENTRIES": SUM_ENTRIES}
    signature = {"partial": "*fp32", "out": "*fp32", "n_entries": "i32", "n_chunks": "i32"}
    signature |= dict.fromkeys(constants, "constexpr")
    return [*found, Compilation("sum_chunks", sum_chunks, signature, constants, SUM_WARPS, 1, ("partial", "out"))]
