"""Choosing the implementation of an op.

The folder of an op holds one module per implementation (``native.py``, ``triton.py``, ``reference.py``), each with

    run(*inputs) -> result
    not_supported_reasons(*inputs) -> list[str]      # empty: it can run on these inputs

which is the only place where its limits are stated. Such a module imports without the library it drives.
"""

from __future__ import annotations

import importlib
import logging
from types import ModuleType
from typing import Any, Literal, get_args

from adaptinf_kernels.errors import NotSupportedError

Impl = Literal["auto", "reference", "triton", "native"]

_log = logging.getLogger("adaptinf_kernels")


class Op:
    """An op and its implementations, best first; the last one must run everywhere."""

    def __init__(self, folder: str, *implementations: str) -> None:
        self.folder, self.implementations = folder, implementations
        self._logged: set[str] = set()

    def __call__(self, impl: str, *inputs: Any) -> Any:
        """Run on ``inputs`` with ``impl``; "auto" takes the best that can run and logs which, once."""
        if impl == "auto":
            return self._best(*inputs).run(*inputs)
        if impl not in get_args(Impl):
            raise ValueError(f"impl={impl!r}: choose from {', '.join(get_args(Impl))}")
        reasons = self.not_supported_reasons(impl, *inputs)
        if reasons:
            raise NotSupportedError(f"{self.folder}: impl={impl!r} cannot run here", reasons)
        return self._module(impl).run(*inputs)

    def not_supported_reasons(self, impl: str, *inputs: Any) -> list[str]:
        """Why ``impl`` cannot run on ``inputs``; empty where it can."""
        if impl not in self.implementations:
            return [f"it has no such implementation, only {', '.join(self.implementations)}"]
        return self._module(impl).not_supported_reasons(*inputs)

    def _best(self, *inputs: Any) -> ModuleType:
        passed_over = []
        for name in self.implementations:
            module = self._module(name)
            reasons = module.not_supported_reasons(*inputs)
            if not reasons:
                if name not in self._logged:
                    self._logged.add(name)
                    _log.info("%s: %s", self.folder, "; ".join([f"runs {name}", *passed_over]))
                return module
            passed_over.append(f"not {name} ({', '.join(reasons)})")
        raise NotSupportedError(f"{self.folder}: nothing can run on these inputs", passed_over)

    def _module(self, name: str) -> ModuleType:
        return importlib.import_module(f"adaptinf_kernels.{self.folder}.{name}")
