"""A repair of Triton's interpreter, which computes bfloat16 wrongly.

It keeps bfloat16 as uint16 bit patterns, which NumPy then adds, multiplies, compares and sums as integers; only casts
to and from float32 know better, and those truncate. ml_dtypes gives NumPy a bfloat16 that rounds to nearest even.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def repair_bfloat16() -> None:
    """Make the interpreter compute in bfloat16. Once a process, after ``TRITON_INTERPRET=1`` was set."""
    import triton.language as tl
    from triton.runtime import interpreter

    numpy_dtype, builder = interpreter._get_np_dtype, interpreter.InterpreterBuilder
    cast_impl, fp_to_fp = builder.cast_impl, builder.create_fp_to_fp

    def repaired_dtype(dtype: tl.dtype) -> np.dtype:
        return _BFLOAT16 if dtype.scalar == tl.bfloat16 else numpy_dtype(dtype)

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

    interpreter._get_np_dtype = repaired_dtype
    builder.cast_impl, builder.create_fp_to_fp = cast, convert
    builder.get_bf16 = lambda self, value: interpreter.TensorHandle(np.array([value], _BFLOAT16), tl.bfloat16)
