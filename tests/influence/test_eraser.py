"""Edits of a model against retraining it (a convex head, float64), and against dense algebra (a small LoRA adapter)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from adaptinf.config import LoraConfig
from adaptinf.data import Message, Sample
from adaptinf.errors import (
    AdapterMismatchError,
    ConfigError,
    DuplicateIdError,
    EmptyTaskError,
    NonFiniteError,
    SolverError,
    UnsupportedModelError,
)
from adaptinf.influence.eraser import Edit, Solving, apply, correct_response, modify_query, remove
from adaptinf.models import LanguageModel, add_lora, trainable_parameters

MakeLm = Callable[..., LanguageModel]
WORDS = ("circle", "square", "blue", "red", "two", "what", "is", "there", "colour", "of", "the")
ANSWERS = ("yes", "no", "a blue square", "two red triangles")
DECAY = 0.1
STEP = 1e-3


def make_samples(n: int, seed: int = 0) -> list[Sample]:
    rng = np.random.default_rng(seed)
    made = []
    for i in range(n):
        text = " ".join(rng.choice(WORDS, int(rng.integers(2, 9))))
        made.append(Sample.from_instruction(f"s{i}", text, str(rng.choice(ANSWERS)), task="t"))
    return made


def with_answer(sample: Sample, answer: str) -> Sample:
    return dataclasses.replace(sample, answer=answer)


def with_query(sample: Sample, text: str) -> Sample:
    return dataclasses.replace(sample, messages=(Message("user", (text,)),))


class Head:
    """A model whose head alone is trained, to the optimum, on ``mean NLL + DECAY/2 |W|^2``."""

    def __init__(self, make_lm: MakeLm) -> None:
        self.lm = make_lm(width=16, layers=1, dtype=torch.float64)
        self.lm.model.requires_grad_(False)
        self.weight = self.lm.base.get_output_embeddings().weight.requires_grad_()

    def fit(self, samples: Sequence[Sample], mean: str = "tokens") -> Tensor:
        """The optimum, found anew from zero by L-BFGS on the states; set as the model's head. ``mean``: over all answer
        tokens, or over samples of the means of theirs."""
        states, targets, shares = [], [], []
        for sample in samples:
            batch = self.lm.encoder.collate([self.lm.encoder.encode(sample)])
            wanted = batch["labels"][0, 1:]
            with torch.no_grad():
                states.append(self.lm.hidden_states(batch)[0, :-1][wanted != -100])
            targets.append(wanted[wanted != -100])
            shares += [1 / len(targets[-1]) if mean == "samples" else 1.0] * len(targets[-1])
        x, y, share = torch.cat(states), torch.cat(targets), torch.tensor(shares, dtype=torch.float64)
        share /= share.sum()
        w = torch.zeros_like(self.weight).requires_grad_()
        solver = torch.optim.LBFGS(
            [w], max_iter=2000, max_eval=4000, history_size=50, tolerance_grad=1e-7, tolerance_change=0,
            line_search_fn="strong_wolfe",
        )  # fmt: skip

        def loss() -> Tensor:
            solver.zero_grad()
            value = (F.cross_entropy(x @ w.T, y, reduction="none") * share).sum() + DECAY / 2 * w.square().sum()
            value.backward()
            return value

        solver.step(loss)
        assert w.grad is not None
        assert float(w.grad.abs().max()) < 1e-6
        with torch.no_grad():
            self.weight.copy_(w)
        return w.detach().clone()

    def left(self, before: Tensor, edit: Edit, retrained: Tensor) -> float:
        """The distance to the retrained head after the edit, as a share of that before."""
        [delta] = edit.delta.values()
        return float((before + delta - retrained).norm() / (before - retrained).norm())


@pytest.fixture
def head(make_lm: MakeLm) -> Head:
    return Head(make_lm)


@pytest.mark.parametrize(("method", "mean"), [("cg", "tokens"), ("cg", "samples"), ("minibatch", "tokens")])
def test_removing_samples_lands_near_retraining_without_them(head: Head, method: str, mean: str) -> None:
    samples = make_samples(40)
    retrained = head.fit(samples[2:], mean)
    before = head.fit(samples, mean)
    solving = Solving(DECAY, method=method, mean=mean, batch_size=20, max_iterations=500)
    edit = remove(head.lm, samples[:2], samples[2:], solving)
    assert edit.n_edited == 2
    assert head.left(before, edit, retrained) < 0.05
    doubled = Edit({name: 2 * part for name, part in edit.delta.items()}, 0, 0, 2)
    assert head.left(before, doubled, retrained) > 0.9  # what the released solver's factor of two would do
    apply(head.lm, edit)
    assert torch.allclose(head.weight, before + next(iter(edit.delta.values())))


@pytest.mark.parametrize("mean", ["tokens", "samples"])
def test_correcting_an_answer_lands_near_retraining_with_it(head: Head, mean: str) -> None:
    samples = make_samples(40)
    after = [with_answer(samples[0], "red"), with_answer(samples[1], "no two squares")]  # of another length
    retrained = head.fit([*after, *samples[2:]], mean)
    before = head.fit(samples, mean)
    edit = correct_response(head.lm, samples[:2], after, samples[2:], Solving(DECAY, mean=mean))
    assert head.left(before, edit, retrained) < 0.15
    back = correct_response(head.lm, samples[:2], samples[:2], samples[2:], Solving(DECAY, mean=mean))
    assert back.norm == 0


def test_the_mean_is_that_of_training(head: Head) -> None:
    """An edit towards the optimum of the other mean goes astray."""
    samples = [with_answer(sample, "no" if i % 2 else "two red triangles") for i, sample in enumerate(make_samples(40))]
    retrained = head.fit(samples[2:])
    before = head.fit(samples)
    edit = remove(head.lm, samples[:2], samples[2:], Solving(DECAY, mean="samples"))
    assert head.left(before, edit, retrained) > 0.1


def test_modifying_a_query_lands_near_retraining_with_it(head: Head) -> None:
    samples = make_samples(40)
    after = [with_query(sample, "the colour of two") for sample in samples[:2]]
    retrained = head.fit([*after, *samples[2:]])
    before = head.fit(samples)
    edit = modify_query(head.lm, samples[:2], after, samples[2:], Solving(DECAY))
    assert head.left(before, edit, retrained) < 0.15


def adapted(make_lm: MakeLm, **options: object) -> LanguageModel:
    lm = make_lm(width=8, **{"layers": 2, **options})
    add_lora(lm, LoraConfig(r=1, alpha=2, dropout=0.5, target_modules=["q_proj", "down_proj"]), seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, parameter in trainable_parameters(lm):
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator).to(parameter)
    lm.model.eval()
    return lm


def gradient(lm: LanguageModel, sample: Sample) -> Tensor:
    """Of the mean answer NLL, of this sample alone."""
    batch = lm.encoder.collate([lm.encoder.encode(sample)])
    loss = lm.answer_nll(batch) / (batch["labels"] != -100).sum()
    parts = torch.autograd.grad(loss, [parameter for _, parameter in trainable_parameters(lm)])
    return torch.cat([part.reshape(-1) for part in parts]).double()


def hessian(lm: LanguageModel, sample: Sample) -> Tensor:
    """By central differences of the gradient."""
    columns = []
    for _, parameter in trainable_parameters(lm):
        for entry in parameter.data.view(-1):
            kept = entry.clone()
            ends = []
            for sign in (1, -1):
                entry.copy_(kept + sign * STEP)
                ends.append(gradient(lm, sample))
            entry.copy_(kept)
            columns.append((ends[0] - ends[1]) / (2 * STEP))
    found = torch.stack(columns)
    return (found + found.T) / 2


def entries(edit: Edit) -> Tensor:
    return torch.cat([part.reshape(-1) for part in edit.delta.values()])


def test_an_adapters_edit_is_the_formulas(make_lm: MakeLm) -> None:
    lm = adapted(make_lm, dtype=torch.float64, layers=1)
    samples = make_samples(5)
    after = [with_answer(samples[0], "red"), samples[1]]
    changed = gradient(lm, after[0]) + gradient(lm, after[1])
    gradients = torch.stack([gradient(lm, sample) for sample in samples])
    own = torch.stack([hessian(lm, one) for one in (*samples, after[0])])
    curvatures = [own[rows].mean(0) for rows in ([2, 3, 4], [0, 1, 2, 3, 4], [5, 1, 2, 3, 4])]
    damping = 0.5 - min(float(torch.linalg.eigvalsh(curvature)[0]) for curvature in curvatures)
    lm.model.train()  # the adapter's dropout must not be seen
    slopes = [
        gradients.mean(0) - gradients[2:].mean(0),
        gradients[:2].sum(0) / 5,
        (gradients[:2].sum(0) - changed) / 5,
    ]
    for method in ("exact", "cg", "minibatch"):
        solve = functools.partial(Solving, damping, mean="samples", method=method, max_iterations=500, batch_size=2)
        edits = [
            remove(lm, samples[:2], samples[2:], solve()),
            remove(lm, samples[:2], samples[2:], solve(form="paper")),
            correct_response(lm, samples[:2], after, samples[2:], solve()),
            correct_response(lm, samples[:2], after, samples[2:], solve(form="paper")),
        ]
        uses = [(0, 0), (1, 1), (2, 2), (1, 2)]  # which curvature, which slope
        for edit, (curved, sloped) in zip(edits, uses, strict=True):
            matrix = curvatures[curved] + damping * torch.eye(len(changed), dtype=torch.float64)
            wanted = torch.linalg.solve(matrix, slopes[sloped])
            # |x - x*| / |x*| <= cond (relative residual + relative error of H, whose differences err by STEP^2 and by
            # float32's rounding of a gradient over STEP)
            spread = float(torch.linalg.cond(matrix))
            tolerance = spread * (1e-3 + STEP**2 + 10 * torch.finfo(torch.float32).eps / STEP)
            assert float((entries(edit) - wanted).norm() / wanted.norm()) < tolerance < 0.1
    assert lm.model.training
    assert list(edits[0].delta) == [name for name, _ in trainable_parameters(lm)]


def test_neither_batches_nor_order_nor_padding_change_an_edit(make_lm: MakeLm) -> None:
    lm = adapted(make_lm)
    samples = make_samples(6)
    edits = [
        remove(lm, samples[:2], others, Solving(2.0, tolerance=1e-6, batch_size=size))
        for size, others in ((1, samples[2:]), (6, samples[2:]), (4, samples[:1:-1]))
    ]
    first = entries(edits[0])
    for edit in edits[1:]:
        assert float((entries(edit) - first).norm()) < 1e-4 * float(first.norm())


def test_kept_graphs_save_forward_passes_and_change_nothing(make_lm: MakeLm, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = adapted(make_lm)
    samples = make_samples(6)
    plain, called = lm.answer_nll, []

    def counting(*args, **options):
        called.append(args)
        return plain(*args, **options)

    monkeypatch.setattr(lm, "answer_nll", counting)
    edits, calls = [], []
    for keep in (False, True):
        called.clear()
        edits.append(remove(lm, samples[:2], samples[2:], Solving(2.0, batch_size=2, keep_graphs=keep)))
        calls.append(len(called))
    assert torch.equal(entries(edits[0]), entries(edits[1]))
    gradients, batches = 3, 2
    assert calls == [gradients + batches * (edits[0].iterations + 1), gradients + batches]  # and one to check


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_an_edited_adapter_is_a_peft_directory(make_lm: MakeLm, tmp_path: Path, attention: str) -> None:
    lm = adapted(make_lm, attention=attention)
    samples = make_samples(6)
    batch = lm.encoder.collate([lm.encoder.encode(sample) for sample in samples[:1]])
    with torch.no_grad():
        unedited = float(lm.answer_nll(batch))
    edit = remove(lm, samples[:1], samples[1:], Solving(2.0))
    assert edit.residual <= 1e-3
    assert edit.iterations > 0
    assert edit.norm > 0
    apply(lm, edit, tmp_path / "edited")
    with torch.no_grad():
        assert float(lm.answer_nll(batch)) > unedited  # forgotten a little
        wanted = lm.logits(batch)
        fresh = peft.PeftModel.from_pretrained(
            make_lm(width=8, layers=2, attention=attention).model, tmp_path / "edited"
        )
        found = fresh.eval()(**lm.to_device(batch)).logits
    torch.testing.assert_close(found, wanted)
    with pytest.raises(AdapterMismatchError, match="not those of the edit"):
        apply(make_lm(), edit)


def test_negative_curvature_is_named_with_the_damping_that_helps(make_lm: MakeLm) -> None:
    lm = adapted(make_lm)
    samples = make_samples(4)
    with pytest.raises(SolverError, match=r"curvature of -[\s\S]*damping above"):
        remove(lm, samples[:1], samples[1:], Solving(0.0))


def test_bad_requests(make_lm: MakeLm) -> None:
    lm, samples, solving = adapted(make_lm), make_samples(4), Solving(1.0)
    with pytest.raises(EmptyTaskError, match="remove or change"):
        remove(lm, [], samples, solving)
    with pytest.raises(DuplicateIdError, match="s0"):
        remove(lm, samples[:1], samples, solving)
    with pytest.raises(ConfigError, match="1 samples before and 2 after"):
        correct_response(lm, samples[:1], samples[:2], samples[2:], solving)
    with pytest.raises(ConfigError, match="stands beside 's1'"):
        correct_response(lm, samples[:1], samples[1:2], samples[2:], solving)
    with pytest.raises(ConfigError, match="its answer changed"):
        modify_query(lm, samples[:1], [with_answer(samples[0], "red")], samples[1:], solving)
    with pytest.raises(ConfigError, match="its conversation changed"):
        correct_response(lm, samples[:1], [with_query(samples[0], "red")], samples[1:], solving)
    with pytest.raises(EmptyTaskError, match="nothing is retained"):
        remove(lm, samples, [], solving)
    with pytest.raises(ConfigError, match="no form"):
        Solving(1.0, form="released")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="no mean"):
        Solving(1.0, mean="batches")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="no solver"):
        Solving(1.0, method="sgd")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="batch_size"):
        Solving(1.0, batch_size=0)
    with pytest.raises(ConfigError, match="damping"):
        remove(lm, samples[:1], samples[1:], Solving(-1.0))
    with pytest.raises(UnsupportedModelError, match="bfloat16"):
        remove(adapted(make_lm, dtype=torch.bfloat16), samples[:1], samples[1:], solving)
    with torch.no_grad():
        next(iter(trainable_parameters(lm)))[1].fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="s0"):
        remove(lm, samples[:1], samples[1:], solving)
    lm.model.requires_grad_(False)
    with pytest.raises(ConfigError, match="no parameter"):
        remove(lm, samples[:1], samples[1:], solving)
