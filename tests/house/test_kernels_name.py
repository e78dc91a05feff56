"""The folder ``kernels/`` must never be taken for Hugging Face's package of that name, which transformers imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.no_cover  # imports transformers, and nothing of ours

LLAMA = """
import importlib.util, sys
import transformers
from transformers import LlamaConfig, LlamaForCausalLM
model = LlamaForCausalLM(LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                                     num_attention_heads=2, num_key_value_heads=2))
assert model.num_parameters() > 0
spec = importlib.util.find_spec("kernels")
print(getattr(sys.modules.get("kernels"), "__file__", None), spec.origin if spec else None, sep="|")
"""


def run_from_root(repository: Path, code: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    """Run ``code`` with the repository root first on the path, as ``python -c`` in the root has it."""
    places = os.pathsep.join(map(str, [*paths, repository / "kernels"]))
    environment = {**os.environ, "PYTHONPATH": places, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=repository, env=environment, capture_output=True, text=True, check=False
    )


def test_the_folder_is_no_package(repository: Path) -> None:
    assert (repository / "kernels" / "adaptinf_kernels").is_dir()
    assert not (repository / "kernels" / "__init__.py").exists()


def test_kernels_never_resolves_to_a_regular_package_of_ours(repository: Path) -> None:
    code = "import importlib.util as u; spec = u.find_spec('kernels'); print(spec.origin if spec else None)"
    done = run_from_root(repository, code)
    assert done.returncode == 0, done.stderr
    assert str(repository / "kernels") not in done.stdout


def test_transformers_imports_from_the_root(repository: Path) -> None:
    done = run_from_root(repository, LLAMA)
    assert done.returncode == 0, done.stderr
    assert str(repository / "kernels") not in done.stdout


@pytest.fixture(scope="module")
def hub_kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hugging Face's own ``kernels``, in a folder of its own."""
    place = tmp_path_factory.mktemp("hub")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(place), "kernels"]
    done = subprocess.run([*pip, "--retries", "0", "--timeout", "10"], capture_output=True, text=True, check=False)
    if done.returncode != 0 or not (place / "kernels" / "__init__.py").exists():
        pytest.skip(f"Hugging Face's kernels cannot be installed here: {done.stderr.strip().splitlines()[-1:]}")
    return place


@pytest.mark.slow
def test_transformers_imports_beside_the_real_package(repository: Path, hub_kernels: Path) -> None:
    done = run_from_root(repository, LLAMA, hub_kernels)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(str(hub_kernels / "kernels" / "__init__.py"))


@pytest.mark.slow
def test_an_init_file_would_shadow_the_real_package(tmp_path: Path, hub_kernels: Path) -> None:
    """The trap itself: it shows that the tests above would notice."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").touch()
    code = "import kernels; print(kernels.__file__)"
    done = run_from_root(tmp_path, code, hub_kernels)
    assert done.stdout.strip() == str(tmp_path / "kernels" / "__init__.py")
