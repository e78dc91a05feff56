"""Repairs of Triton's interpreter, which computes bfloat16 wrongly, and matrix products with the noise of a BLAS.

It keeps bfloat16 as uint16 bit patterns, which NumPy then adds, multiplies, compares and sums as integers; only casts
to and from float32 know better, and those truncate. ml_dtypes gives NumPy a bfloat16 that rounds to nearest even.

Its ``tl.dot`` is a float32 BLAS product, where an entry's bits depend on its place in the matrix. On a GPU they do not;
here products are summed in float64 and rounded once.

It patches all of ``triton.language`` at each call of each function, and looks each dtype up in a table that it makes
anew: a third of its time. Here a process that interprets does either once.
"""

from __future__ import annotations

import functools
from typing import Any

import ml_dtypes
import numpy as np

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def repair() -> None:
    """Make the interpreter compute in bfloat16, repeatably and sooner. Once, after ``TRITON_INTERPRET=1`` was set."""
    import triton.language as tl
    from triton.runtime import interpreter

    numpy_dtype, patch_lang = interpreter._get_np_dtype, interpreter._patch_lang
    builder, dtypes = interpreter.InterpreterBuilder, {}
    cast_impl, fp_to_fp, create_dot = builder.cast_impl, builder.create_fp_to_fp, builder.create_dot

    def repaired_dtype(dtype: tl.dtype) -> np.dtype:
        scalar = dtype.scalar
        if scalar.name not in dtypes:
            dtypes[scalar.name] = _BFLOAT16 if scalar == tl.bfloat16 else numpy_dtype(scalar)
        return dtypes[scalar.name]

    @functools.cache
    def patch_once(function: Any) -> interpreter._LangPatchScope:
        patch_lang(function)
        return interpreter._LangPatchScope()  # which undoes nothing

    def involved(source: Any, target: tl.dtype) -> bool:
        return tl.bfloat16 in (source.dtype.scalar, target.scalar)

    def cast(self: Any, source: Any, target: tl.dtype) -> Any:
        if not involved(source, target):
            return cast_impl(self, source, target)
        return interpreter.TensorHandle(source.data.astype(repaired_dtype(target)), target.scalar)

    def convert(self: Any, source: Any, target: tl.dtype, rounding: Any) -> Any:
        if not involved(source, target):
            return fp_to_fp(self, source, target, rounding)
        if rounding not in (None, interpreter._ir.ROUNDING_MODE.RTNE):
            raise NotImplementedError("bfloat16 rounds to nearest even alone")
        return cast(self, source, target)

    def dot(self: Any, a: Any, b: Any, d: Any, precision: Any, imprecise: Any) -> Any:
        if a.dtype.primitive_bitwidth == 8:  # 8-bit floats are bit patterns
            return create_dot(self, a, b, d, precision, imprecise)
        product = np.matmul(a.data, b.data, dtype=np.float64) + d.data
        return interpreter.TensorHandle(product.astype(d.data.dtype), d.dtype.scalar)

    interpreter._get_np_dtype, interpreter._patch_lang = repaired_dtype, patch_once
    builder.create_dot = dot
    builder.cast_impl, builder.create_fp_to_fp = cast, convert
    builder.get_bf16 = lambda self, value: interpreter.TensorHandle(np.array([value], _BFLOAT16), tl.bfloat16)
