"""``capture`` in somebody else's loop, against each sample alone through autograd in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from adaptinf_kernels import Preconditioner, Sketch, project
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.pytorch_utils import Conv1D

from adaptinf.capture import Segments, capture
from adaptinf.errors import ConfigError, UnsupportedModelError

SKETCH = Sketch(kind="sjlt", k=32, seed=1)
LENGTHS = (3, 1, 5)
WIDTH, VOCABULARY = 6, 11


class Block(nn.Module):
    """One of each kind of layer; ``shared`` runs ``times`` times; recomputed in backward if asked."""

    def __init__(self, *, times: int = 1, recompute: str = "") -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.turned = Conv1D(WIDTH, WIDTH)
        self.layer_norm, self.rms_norm = nn.LayerNorm(WIDTH), nn.RMSNorm(WIDTH, eps=1e-5)
        self.llama_norm, self.gemma_norm = LlamaRMSNorm(WIDTH), GemmaRMSNorm(WIDTH)
        self.shared = nn.Linear(WIDTH, WIDTH, bias=False)
        self.times, self.recompute = times, recompute

    def forward(self, h: Tensor) -> Tensor:
        if not self.recompute:
            return self._run(h)
        return checkpoint(self._run, h, use_reentrant=self.recompute == "reentrant")  # pyright: ignore[reportReturnType]

    def _run(self, h: Tensor) -> Tensor:
        h = self.layer_norm(torch.tanh(self.first(h)))
        h = self.llama_norm(self.rms_norm(torch.tanh(self.turned(h))))
        for _ in range(self.times):
            h = torch.tanh(self.shared(h))
        return self.gemma_norm(h)


class Tiny(nn.Module):
    """Embedding, block, head tied to the embedding (or not)."""

    def __init__(self, *, tied: bool = False, **block: object) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH, padding_idx=0)
        self.block = Block(**block)  # pyright: ignore[reportArgumentType]
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        with torch.no_grad():
            for index, parameter in enumerate(self.parameters()):
                generator = torch.Generator().manual_seed(index)
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.6)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.block(self.embed(ids)))


def batch() -> tuple[list[Tensor], Tensor, Tensor]:
    """(samples, padded ids [3, 5], mask)."""
    generator = torch.Generator().manual_seed(5)
    samples = [torch.randint(0, VOCABULARY, (n,), generator=generator) for n in LENGTHS]
    mask = torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.int64)
    ids = torch.full(mask.shape, 7)
    for row, sample in enumerate(samples):
        ids[row, : len(sample)], mask[row, : len(sample)] = sample, 1
    return samples, ids, mask


def loss_of(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    squares = logits.square().sum(-1) + logits[..., 3]
    return squares.sum() if mask is None else (squares * mask).sum()


def sketched(name: str, gradient: Tensor) -> Tensor:
    matrix = gradient if gradient.dim() > 1 else gradient[None]
    return project(matrix[None], SKETCH, name=name)[0].double()


def alone(model: nn.Module, samples: Sequence[Tensor], names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Sketches and norms of each sample by itself, in the model's precision."""
    rows, norms = [], []
    parameters = dict(model.named_parameters())
    for sample in samples:
        sample = sample.to(parameters[names[0]].dtype) if sample.is_floating_point() else sample
        loss = loss_of(model(sample[None]))
        gradients = torch.autograd.grad(loss, [parameters[name] for name in names])
        rows.append(torch.stack([sketched(n, g) for n, g in zip(names, gradients, strict=True)]).sum(0))
        norms.append(torch.stack([g.double().square().sum() for g in gradients]).sum().sqrt())
    return torch.stack(rows), torch.stack(norms)


def check(found: Tensor, model: nn.Module, which: int, samples: Sequence[Tensor], names: Sequence[str]) -> None:
    """Error against float64 at most twice that of a float32 pass over each sample alone, plus rounding."""
    truth = alone(copy.deepcopy(model).double(), samples, names)[which]
    peer = (alone(copy.deepcopy(model), samples, names)[which] - truth).abs().max()
    rounding = 64 * torch.finfo(torch.float32).eps * truth.abs().max()
    assert (found.double() - truth).abs().max() <= 2 * peer + rounding
    assert truth.abs().max() > 1e-2, "too small to be a test"


@pytest.mark.parametrize("recompute", ["", "reentrant", "non-reentrant"])
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("norms", [False, True])
def test_equals_every_sample_alone(tied: bool, times: int, recompute: str, norms: bool) -> None:
    model = Tiny(tied=tied, times=times, recompute=recompute)
    names = [name for name, _ in model.named_parameters()]
    assert len(names) == (11 if tied else 12)
    samples, ids, mask = batch()
    loss_of(model(ids), mask).backward()
    plain = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}  # pyright: ignore[reportOptionalMemberAccess]
    model.zero_grad()
    with capture(model, sketch=SKETCH, scores=["grad_norm"] if norms else []) as captured:
        for _ in range(2):  # nothing remains of an earlier batch
            model.zero_grad()
            captured.begin(Segments.mask(mask))
            loss_of(model(ids), mask).backward()
            found = captured.result()
    assert found.sketch is not None
    reference = Tiny(tied=tied, times=times)
    check(found.sketch, reference, 0, samples, names)
    if norms:
        check(found.scores["grad_norm"], reference, 1, samples, names)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[name], rtol=0, atol=0)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("norms", [False, True])
def test_parameters_apart(norms: bool) -> None:
    model, reference = Tiny(tied=True, times=2), Tiny(tied=True, times=2)
    names = [name for name, _ in model.named_parameters()]
    samples, ids, mask = batch()
    with capture(model, sketch=SKETCH, scores=["grad_norm"] if norms else [], per_parameter=True) as captured:
        captured.begin(Segments.mask(mask))
        loss_of(model(ids), mask).backward()
        found = captured.result(scale=2.0).sketch
    assert found is not None
    assert found.shape == (len(LENGTHS), len(names), SKETCH.k)
    for place, name in enumerate(names):
        check(found[:, place] / 2, reference, 0, samples, [name])


@pytest.mark.parametrize("where", ["packed", "rows", "three-dimensional rows"])
def test_every_way_to_say_where_the_samples_lie(where: str) -> None:
    model = Tiny().block
    names = [name for name, _ in model.named_parameters()]
    samples = list(torch.randn(3, 4, 2, WIDTH) if "three" in where else torch.randn(3, 4, WIDTH))
    if where == "packed":
        samples[1] = samples[1][:0]
        cu_seqlens = torch.tensor([0, 4, 4, 8])
        inputs, segments = torch.cat(samples)[None], Segments.packed(cu_seqlens)
    else:
        inputs, segments = torch.stack(samples), 3
    with capture(model, targets="*", sketch=SKETCH, scores=["grad_norm"]) as captured:
        captured.begin(segments)
        loss_of(model(inputs)).backward()
        found = captured.result()
    assert found.sketch is not None
    check(found.sketch, model, 0, samples, names)
    check(found.scores["grad_norm"], model, 1, samples, names)
    if where == "packed":
        assert not found.sketch[1].any()


def test_a_frozen_model_has_features_and_no_gradient() -> None:
    model = Tiny(tied=True).requires_grad_(False)
    samples, ids, mask = batch()
    with capture(model, targets=["block.shared", "block.llama_norm.weight"], sketch=SKETCH) as captured:
        captured.begin(Segments.mask(mask))
        loss_of(model(ids), mask).backward()
        found = captured.result()
    assert found.sketch is not None
    check(found.sketch, Tiny(tied=True), 0, samples, ["block.shared.weight", "block.llama_norm.weight"])
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.parameters())


def of_sum(model: nn.Module, found: Tensor, precision: torch.dtype) -> None:
    """The samples' sketches add up to that of the gradient which the optimiser sees."""
    parts = [(n, p.grad.float()) for n, p in model.named_parameters() if p.grad is not None]
    total = torch.stack([sketched(name, gradient) for name, gradient in parts]).sum(0)
    size = torch.stack([gradient.norm() for _, gradient in parts]).norm()
    assert (found.double().sum(0) - total).abs().max() <= 16 * torch.finfo(precision).eps * size
    assert total.abs().max() > 0.05 * size


def test_autocast() -> None:
    model = Tiny()
    _, ids, mask = batch()
    with capture(model, sketch=SKETCH) as captured:
        captured.begin(Segments.mask(mask))
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(ids)
        loss_of(logits.float(), mask).backward()
        found = captured.result().sketch
    assert found is not None
    of_sum(model, found, torch.bfloat16)


@pytest.mark.parametrize("inside", [True, False])
def test_a_compiled_model_is_observed_or_says_that_it_is_not(inside: bool) -> None:
    torch.compiler.reset()
    model = Tiny()
    samples, ids, mask = batch()
    compiled = torch.compile(model, backend="aot_eager")
    if not inside:
        loss_of(compiled(ids), mask).backward()
        model.zero_grad()
    with capture(model, sketch=SKETCH) as captured:
        captured.begin(Segments.mask(mask))
        loss_of(compiled(ids), mask).backward()
        if inside:
            found = captured.result().sketch
            assert found is not None
            check(found, Tiny(), 0, samples, [name for name, _ in model.named_parameters()])
        else:
            with pytest.raises(UnsupportedModelError, match=r"torch\.compiler\.reset"):
                captured.result()
    torch.compiler.reset()


def test_scale_undoes_a_mean_and_a_grad_scaler() -> None:
    model = Tiny()
    samples, ids, mask = batch()
    with capture(model, sketch=SKETCH, scores=["grad_norm"]) as captured:
        captured.begin(Segments.mask(mask))
        (loss_of(model(ids), mask) / 9 * 1024).backward()
        found = captured.result(scale=torch.tensor([9 / 1024, 9 / 1024, 9 / 2048]))
    expected, norms = alone(Tiny().double(), samples, [name for name, _ in model.named_parameters()])
    weights = torch.tensor([1, 1, 0.5]).double()
    torch.testing.assert_close(found.sketch.double(), expected * weights[:, None], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.scores["grad_norm"], norms * weights, rtol=1e-5, atol=1e-6)


def test_token_scores_come_from_the_models_own_logits() -> None:
    model = Tiny()
    samples, ids, mask = batch()
    labels = F.pad(ids[:, 1:], (0, 1), value=-100)
    labels[mask.roll(-1, 1) == 0] = -100
    labels[:, -1] = -100
    names = ["nll", "entropy", "el2n", "margin", "mean_exp_nll"]
    with capture(model, scores=names) as captured:
        captured.begin(Segments.mask(mask), labels=labels)
        with torch.no_grad():
            model(ids)
            with pytest.raises(RuntimeError, match="ran twice"):
                model(ids)
        found = captured.result()
        model(ids)  # nobody asked for its scores
        with pytest.raises(RuntimeError, match=r"call begin\(\)"):
            captured.result()
    assert found.sketch is None and list(found.scores) == names
    for row, sample in enumerate(samples):
        logits, targets = model(sample[None])[0, :-1].double(), sample[1:]
        if not len(targets):
            assert all(torch.isnan(found.scores[name][row]) for name in names)
            continue
        log_p = logits.log_softmax(-1)
        nll = F.nll_loss(log_p, targets, reduction="none")
        others = logits.scatter(1, targets[:, None], -torch.inf).max(1).values
        expected = {
            "nll": nll.mean(),
            "mean_exp_nll": nll.exp().mean(),
            "entropy": -(log_p.exp() * log_p).sum(-1).mean(),
            "el2n": (F.one_hot(targets, VOCABULARY) - log_p.exp()).norm(dim=1).mean(),
            "margin": (logits.gather(1, targets[:, None])[:, 0] - others).mean(),
        }
        for name, value in expected.items():
            torch.testing.assert_close(found.scores[name][row], value, rtol=1e-5, atol=1e-5)


def test_classification_has_one_label_a_row() -> None:
    model, x = nn.Linear(WIDTH, 4), torch.randn(5, WIDTH)
    labels = torch.tensor([0, 3, 1, 2, -100])
    with capture(model, sketch=SKETCH, scores=["nll"]) as captured:
        captured.begin(5, labels=labels)
        F.cross_entropy(model(x), labels).backward()
        found = captured.result()
    torch.testing.assert_close(
        found.scores["nll"][:4], F.cross_entropy(model(x[:4]), labels[:4], reduction="none").double()
    )
    assert torch.isnan(found.scores["nll"][4])


@pytest.mark.parametrize("times", [1, 2])
def test_preconditioned_like_the_explicit_gradient(times: int) -> None:
    model = Tiny(times=times)
    samples, ids, mask = batch()
    name = "block.shared.weight"
    state = {"exp_avg": torch.randn(WIDTH, WIDTH), "exp_avg_sq": torch.rand(WIDTH, WIDTH)}
    adam = Preconditioner.less(**state)
    with capture(model, targets=name, sketch=SKETCH, preconditioners={name: adam}) as captured:
        captured.begin(Segments.mask(mask))
        loss_of(model(ids), mask).backward()
        found = captured.result().sketch
    for row, sample in enumerate(samples):
        (g,) = torch.autograd.grad(loss_of(model(sample[None])), [model.block.shared.weight])
        direction = (0.9 * state["exp_avg"] + 0.1 * g) / (0.999 * state["exp_avg_sq"] + 0.001 * g**2 + 1e-8).sqrt()
        torch.testing.assert_close(found[row].double(), sketched(name, direction), rtol=1e-4, atol=1e-4)


def test_a_mapping_gives_the_names_and_a_shared_name_space() -> None:
    model = Tiny()
    _, ids, mask = batch()
    found = []
    weight = model.block.shared.weight
    for targets in ({"block.shared.weight": weight}, "block.shared", ["*.shared.*"], {"other": weight}):
        with capture(model, targets=targets, sketch=SKETCH) as captured:
            captured.begin(Segments.mask(mask))
            loss_of(model(ids), mask).backward()
            found.append(captured.result().sketch)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    torch.testing.assert_close(found[0], found[2], rtol=0, atol=0)
    assert not torch.allclose(found[0], found[3])


def refusals() -> list[tuple[Callable[[], object], type[Exception], str]]:
    model = Tiny()
    _, ids, mask = batch()

    def run(
        what: object = "trainable",
        segments: object = None,
        of: nn.Module = model,
        backward: bool = True,
        **more: object,
    ) -> None:
        with capture(of, targets=what, sketch=SKETCH, **more) as captured:  # pyright: ignore[reportArgumentType]
            captured.begin(Segments.mask(mask) if segments is None else segments)  # pyright: ignore[reportArgumentType]
            loss = loss_of(of(ids))
            if backward:
                loss.backward()
            captured.result()

    class Odd(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) ** 2

    def with_odd() -> nn.Module:
        other = Tiny()
        other.block.first = Odd(WIDTH, WIDTH)
        return other

    def unused() -> nn.Module:
        other = Tiny()
        other.idle = nn.Linear(2, 2)
        return other

    def experts() -> nn.Module:
        other = Tiny()
        other.experts = nn.ModuleList([nn.Linear(WIDTH, WIDTH)])
        return other

    def before_begin() -> None:
        with capture(model, sketch=SKETCH) as captured:
            loss_of(model(ids)).backward()
            captured.result()

    def unlabelled() -> None:
        with capture(model, scores=["nll"]) as captured:
            captured.begin(3)

    return [
        (lambda: run("nothing.like.this"), ConfigError, "matches no parameter"),
        (lambda: run(scores=["perplexity"]), ConfigError, "perplexity: is no score"),
        (lambda: run(of=with_odd()), UnsupportedModelError, r"block\.first\.weight: belongs to Odd"),
        (lambda: run(of=experts()), UnsupportedModelError, r"experts\.0\.weight: is an expert's own layer"),
        (lambda: run(of=unused()), UnsupportedModelError, r"idle\.weight: was not used"),
        (lambda: run(backward=False), UnsupportedModelError, "no gradient reached it"),
        (lambda: run({"x": nn.Parameter(torch.zeros(2))}), UnsupportedModelError, "is no parameter of the model"),
        (lambda: run(segments=Segments.mask(mask[:, :4])), UnsupportedModelError, "cannot be told apart by sample"),
        (lambda: run(segments=4), UnsupportedModelError, "cannot be told apart by sample"),
        (lambda: run(segments=0), ValueError, "at least one sample"),
        (lambda: Segments.packed(torch.tensor([0, 4, 2])), ValueError, "must rise from 0"),
        (lambda: Segments.mask(mask[0]), ValueError, r"\[B, T\]"),
        (lambda: run(preconditioners={"x": None}), ConfigError, "is none of the targets"),
        (before_begin, RuntimeError, r"before begin\(\)"),
        (unlabelled, ValueError, "need labels"),
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(15))
def test_refusals_name_what_is_wrong(number: int) -> None:
    action, error, message = refusals()[number]
    with pytest.raises(error, match=message):
        action()
    assert len(refusals()) == 15


def test_an_unused_parameter_counts_as_zero_where_that_is_allowed() -> None:
    model = Tiny()
    model.idle = nn.Linear(2, 2)
    samples, ids, mask = batch()
    with capture(model, sketch=SKETCH, allow_unused=True) as captured:
        captured.begin(Segments.mask(mask))
        loss_of(model(ids), mask).backward()
        found = captured.result().sketch
    assert found is not None
    check(found, Tiny(), 0, samples, [name for name, _ in Tiny().named_parameters()])
