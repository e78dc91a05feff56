"""The code of ``adaptinf_kernels/README.md`` runs as it stands; NumPy plays CuPy, which has no CPU arrays."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import adaptinf_kernels
import numpy as np
import pytest
import torch
from adaptinf_kernels import Sketch, project

SECTIONS = dict(
    re.findall(
        r"^## (.+?)\n.*?```python\n(.*?)```",
        (Path(adaptinf_kernels.__file__).parent / "README.md").read_text(),
        re.DOTALL | re.MULTILINE,
    )
)
SKETCH = Sketch("sjlt", 4096)


def run(*sections: str, **names: Any) -> dict[str, Any]:
    for section in sections:
        exec(compile(SECTIONS[section], section, "exec"), names)
    return names


def exact(model: torch.nn.Module, loss_of_sample: list[torch.Tensor]) -> torch.Tensor:
    """Gram matrix of the per-sample gradients of all Linear weights."""
    weights = [layer.weight for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    rows = [torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)]) for loss in loss_of_sample]
    return torch.stack(rows) @ torch.stack(rows).T


def assert_estimates(z: torch.Tensor, gram: torch.Tensor) -> None:
    """Six standard errors of a sketch of k numbers."""
    sizes = gram.diagonal().sqrt()
    assert ((z @ z.T - gram).abs() <= 6 * (2 / SKETCH.k) ** 0.5 * sizes[:, None] * sizes[None, :]).all()


def bare_loop() -> dict[str, Any]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(12, 30), torch.nn.Tanh(), torch.nn.Linear(30, 5))
    given = {"model": model, "inputs": torch.randn(6, 7, 12), "samples": 6, "cu_seqlens": torch.arange(0, 43, 7)}
    return run("In a bare torch loop", loss=lambda y: y.square().sum(), sketch=SKETCH, **given)


def test_bare_loop() -> None:
    names = bare_loop()
    model, z = names["model"], names["z"]
    assert_estimates(z, exact(model, [model(one).square().sum() for one in names["inputs"]]))
    assert not any(layer._forward_hooks for layer in model.modules())


def test_trainer(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    data = [{"input_ids": ids, "labels": ids} for ids in torch.randint(50, (4, 9)).tolist()]
    keep = run("In Trainer", **bare_loop())["KeepSketches"](SKETCH)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=4, max_steps=1, use_cpu=True, report_to=[],
        disable_tqdm=True,
    )  # fmt: skip
    Trainer(model, arguments, train_dataset=data, callbacks=[keep]).train()
    z = torch.cat(keep.rows)
    assert z.shape == (4, SKETCH.k)
    model.load_state_dict(start)
    ids = torch.tensor([one["input_ids"] for one in data])
    losses = [model(input_ids=one[None], labels=one[None]).loss / len(ids) for one in ids]
    gram = exact(model, losses)
    order = (z @ z.T).diagonal().argsort()  # the Trainer shuffles: compare what does not depend on the order
    assert_estimates(z[order], gram[gram.diagonal().argsort()][:, gram.diagonal().argsort()])


def test_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", np)
    names = run("With CuPy arrays")
    generator = np.random.default_rng(0)
    x, g = (generator.standard_normal((20, d)).astype(np.float32) for d in (8, 6))
    found = names["similarities"](x, g, np.array([4, 0, 16]), SKETCH)
    rows = [g[a:b].T @ x[a:b] for a, b in ((0, 4), (4, 4), (4, 20))]
    z = project(torch.from_numpy(np.stack(rows)), SKETCH, name="layer.weight")
    np.testing.assert_allclose(found, (z @ z.T).numpy(), rtol=1e-4, atol=1e-3)
    gradients = generator.standard_normal((9, 3000)).astype(np.float32)
    assert names["nearest"](gradients, gradients[5] + 0.1, SKETCH) == 5


def test_each_takes_no_more_than_its_lines() -> None:
    for section in ("In a bare torch loop", "In Trainer", "With CuPy arrays"):
        assert len([line for line in SECTIONS[section].splitlines() if line.strip()]) <= 20, section
