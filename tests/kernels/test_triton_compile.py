"""Every Triton kernel compiles for each architecture, with each Triton, and takes what its table says."""

from __future__ import annotations

import pytest

from tests.kernels import triton_resources as resources

OPS = sorted(path.parent.name for path in resources.PACKAGE.glob("*/triton_kernels.py"))


@pytest.mark.slow
@pytest.mark.parametrize("architecture", resources.ARCHITECTURES)
@pytest.mark.parametrize("version", resources.VERSIONS)
def test_compiles_as_recorded(version: str, architecture: int) -> None:
    if resources.triton_path(version) is None:
        pytest.skip(f"there is no Triton {version} beside the environment's own; .ci/environment installs it")
    label = resources.label(version, architecture)
    errors, differences = [], []
    for op, compilations in resources.compile_all(version, architecture).items():
        recorded = {name: used for name, used in resources.read(op).items() if name.endswith(label)}
        for name, found in compilations.items():
            known = recorded.pop(name + label, None)
            if "error" in found:
                errors.append(f"{op}: {name}: {found['error']}")
                continue
            if resources.row(found) != known:
                differences.append(f"{op}: {name}: {resources.row(found)}, recorded {known}")
            if found["default"] and found["stack"]:
                errors.append(f"{op}: {name} spills {found['stack']} bytes")
            if found["shared"] > resources.SHARED_LIMIT[architecture]:
                errors.append(f"{op}: {name} does not start with {found['shared']} bytes of shared memory")
        differences += [f"{op}: {name}: recorded, but compiled no more" for name in recorded]
    assert not errors, "\n".join(errors)
    assert not differences, "\n".join([*differences, "rewrite: python -m tests.kernels.triton_resources"])


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in resources.PACKAGE.glob("*/triton.py")))
def test_every_triton_implementation_lists_its_kernels(folder: str) -> None:
    assert folder in OPS
