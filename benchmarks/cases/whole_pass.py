"""Forward and backward of a whole model with per-sample sketches, against the same pass without them and the peers."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from adaptinf_kernels import Preconditioner, Sketch, project
from torch import Tensor

from adaptinf.capture import capture, extract, find_targets
from benchmarks import models, peers
from benchmarks.case import Case, Contender, Outputs, Setting, Workload
from benchmarks.cases.common import STEP, adam
from benchmarks.gate import Close, Unbiased, gram

CHECKED = 2
"""Samples whose numbers the gates compare with the oracle."""


class Pass:
    """A model, a batch of equally long samples, and the parameters whose gradients are wanted."""

    def __init__(self, setting: Setting, size: models.Size, *, kind: str, checked: int = CHECKED) -> None:
        self.setting, self.checked = setting, checked
        self.size = models.TINY if setting.tiny else size
        self.lm = models.language_model(setting, self.size, lora=8 if kind == "lora" else 0)
        self.samples = models.samples(self.size, [self.size.tokens] * self.size.samples)
        self.encoded = [self.lm.encoder.encode(sample) for sample in self.samples]
        self.batch = models.collate(self.lm, self.encoded)
        self.names = list(find_targets(self.lm, "all", kind))
        self.truth = models.Truth(self.lm, self.encoded, self.names)
        self.exact = functools.cache(lambda: self.truth.exact(checked))
        self.rough = functools.cache(lambda: self.truth.rough(checked))
        self.moments = functools.cache(self._moments)

    @property
    def shape(self) -> dict[str, Any]:
        size, total = self.size, sum(parameter.numel() for parameter in self.lm.model.parameters())
        trained = sum(self.lm.model.get_parameter(name).numel() for name in self.names)
        dtype = str(self.setting.dtype).removeprefix("torch.")
        return {"parameters": total, "targets": trained, "B": size.samples, "T": size.tokens, "dtype": dtype}

    def sketched(self, gradients: dict[str, Tensor], sketch: Sketch) -> Tensor:
        parts = (project(g.flatten(2), sketch, name=name, impl="reference") for name, g in gradients.items())
        return sum(part.double() for part in parts)

    def features_gate(self, sketch: Sketch, *, preconditioned: bool) -> Close:
        def features(gradients: dict[str, Tensor]) -> Outputs:
            if preconditioned:
                gradients = {name: adam(gradient, *self.moments()[name]) for name, gradient in gradients.items()}
            return {"features": self.sketched(gradients, sketch)}

        return Close(lambda: features(self.exact()), lambda: features(self.rough()), required=["features"])

    def _moments(self) -> dict[str, tuple[Tensor, Tensor]]:
        """A random state of Adam for every target, of the size that its gradients have."""
        state = {}
        for seed, (name, gradients) in enumerate(self.rough().items()):
            size = gradients.float().square().mean().sqrt()
            shape, device = gradients.shape[1:], gradients.device
            generator = torch.Generator(device).manual_seed(seed)
            first = torch.randn(shape, generator=generator, device=device) * size
            state[name] = first, (1 + torch.rand(shape, generator=generator, device=device)) * size**2
        return state

    def gradient_gate(self, names: Sequence[str] | None = None) -> Close:
        """Of the gradient summed over the batch, in the first, middle and last of the parameters."""
        wanted = list(names or self.names)
        wanted = list(dict.fromkeys((wanted[0], wanted[len(wanted) // 2], wanted[-1])))
        truth = models.Truth(self.lm, self.encoded, wanted)

        return Close(truth.exact_sum, truth.rough_sum, required=wanted, rounding=self.setting.dtype)

    def per_sample_gate(self) -> Close:
        return Close(self.exact, self.rough, required=self.names, rounding=self.setting.dtype)

    def unbiased_gate(self, scale: float) -> Unbiased:
        return Unbiased(lambda: gram(self.truth.rough(len(self.encoded)).values()), scale=scale)

    def few(self, gradients: dict[str, Tensor]) -> Outputs:
        return {name: gradient[: self.checked] for name, gradient in gradients.items()}


# ---------------------------------------------------------------- contenders


def plain(work: Pass, name: str, parameters: Sequence[str] | None = None) -> Contender:
    """An ordinary forward and backward with these trainable parameters (default: the targets)."""
    names = list(parameters or work.names)

    def prepare() -> Callable[[], Outputs]:
        select = models.trainable(work.lm, names)

        def run() -> Outputs:
            wanted = select()
            loss = models.sample_losses(work.lm, work.batch).sum()
            return dict(zip(wanted, torch.autograd.grad(loss, list(wanted.values())), strict=True))

        return run

    return Contender(name, prepare, work.gradient_gate(names), lambda value: value)


def captured(work: Pass, name: str, sketch: Sketch, *, preconditioned: bool = False) -> Contender:
    """Our taps in the same loop as ``plain``; they stay for all batches, so they are made once."""

    def prepare() -> Callable[[], Tensor]:
        twin = models.twin(work.lm)
        freeze = models.trainable(twin, ())
        freeze()
        moments = work.moments() if preconditioned else {}
        state = {name: Preconditioner.adam(*both, step=STEP) for name, both in moments.items()}
        opened = capture(twin.model, targets=work.names, sketch=sketch, preconditioners=state)
        taps = opened.__enter__()

        def run() -> Tensor:
            freeze()
            taps.begin(work.size.samples)
            models.sample_losses(twin, work.batch).sum().backward()
            found = taps.result().sketch
            assert found is not None
            return found

        run.opened = opened  # the taps live as long as the function
        return run

    gate = work.features_gate(sketch, preconditioned=preconditioned)
    return Contender(name, prepare, gate, lambda value: {"features": value[: work.checked]}, ours=True)


def loop_gradients(work: Pass) -> dict[str, Tensor]:
    """One sample at a time."""
    return work.truth.rough(len(work.encoded))


def loop(work: Pass) -> Contender:
    return Contender("loop", lambda: lambda: loop_gradients(work), work.per_sample_gate(), work.few)


def loop_trak(work: Pass, name: str, k: int) -> Contender:
    """LESS: a loop of single samples, then TRAK's projector on the stacked gradients."""
    columns = sum(work.lm.model.get_parameter(name).numel() for name in work.names)

    def prepare() -> Callable[[], Tensor]:
        stacked = torch.zeros(len(work.encoded), columns, device=work.setting.device, dtype=work.setting.dtype)
        projected = peers.trak(columns, k, work.setting.device, stacked)
        select = models.trainable(work.lm, work.names)

        def run() -> Tensor:
            wanted = select()
            for row, one in zip(stacked, work.encoded, strict=True):
                loss = models.sample_losses(work.lm, models.collate(work.lm, [one])).sum()
                gradients = torch.autograd.grad(loss, list(wanted.values()))
                row.copy_(torch.cat([gradient.flatten() for gradient in gradients]))
            return projected()

        return run

    return Contender(name, prepare, work.unbiased_gate(k**-0.5), lambda value: {"features": value})


def vmapped(work: Pass) -> Contender:
    """``torch.func``: per-sample gradients of the whole batch, materialised."""

    def prepare() -> Callable[[], dict[str, Tensor]]:
        model = work.lm.model
        freeze = models.trainable(work.lm, ())
        wanted = {name: model.get_parameter(name).detach() for name in work.names}

        def loss(trained: dict[str, Tensor], input_ids: Tensor, labels: Tensor) -> Tensor:
            inputs = {"input_ids": input_ids[None], "use_cache": False}
            logits = torch.func.functional_call(model, trained, (), inputs).logits[0, :-1].float()
            answer = labels[1:]
            nll = torch.nn.functional.cross_entropy(logits, answer, reduction="none", ignore_index=-100)
            return nll.sum() / (answer != -100).sum()

        gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))

        def run() -> dict[str, Tensor]:
            freeze()
            return gradients(wanted, work.batch["input_ids"], work.batch["labels"])

        return run

    return Contender("vmap(grad)", prepare, work.per_sample_gate(), work.few)


def opacus(work: Pass, k: int | None = None) -> Contender:
    """Opacus' per-sample gradients; with ``k`` a CountSketch by ``index_add`` on top, the cheapest that torch has."""
    name = "opacus" if k is None else "opacus + index_add"

    def gradients() -> Callable[[], dict[str, Tensor]]:
        lm = copy.copy(work.lm)
        lm.model = copy.deepcopy(work.lm.model)
        wanted = models.trainable(lm, work.names)()
        peers.opacus(lm.model).train()  # it looks at modules in training alone; there is no dropout

        def run() -> dict[str, Tensor]:
            models.sample_losses(lm, work.batch).sum().backward()
            found = {name: parameter.grad_sample for name, parameter in wanted.items()}
            for parameter in wanted.values():
                parameter.grad = parameter.grad_sample = None
            return found

        return run

    def sketched() -> Callable[[], Tensor]:
        assert k is not None
        run = gradients()
        tables = {}
        for name in work.names:
            entries = work.lm.model.get_parameter(name).numel()
            rows = torch.randint(k, (entries,), device=work.setting.device)
            tables[name] = rows, torch.randn(entries, device=work.setting.device).sign_()

        def with_sketch() -> Tensor:
            out = torch.zeros(len(work.encoded), k, device=work.setting.device)
            for name, gradient in run().items():
                rows, signs = tables[name]
                out.index_add_(1, rows, gradient.flatten(1) * signs)
            return out

        return with_sketch

    if k is None:
        return Contender(name, gradients, work.per_sample_gate(), work.few)
    return Contender(name, sketched, work.unbiased_gate(1.0), lambda value: {"features": value})


def bergson(work: Pass) -> Contender:
    """bergson's projections, 256 numbers a module, held to ``L G R^T`` with its own L and R."""
    side = 4 if work.setting.tiny else 16
    modules = {name.removesuffix(".weight"): name for name in work.names}
    embedding = work.lm.base.get_input_embeddings().weight
    root = next(name for name, parameter in work.lm.model.named_parameters() if parameter is embedding)
    select = models.trainable(work.lm, [root])  # as bergson has it: the embedding is the root of the graph

    def collector() -> Any:
        select()
        return peers.bergson(work.lm.model, list(modules), work.size.samples, side)

    def prepare() -> Callable[[], dict[str, Tensor]]:
        made = collector()

        def run() -> dict[str, Tensor]:
            select()
            with made:
                models.sample_losses(work.lm, work.batch).sum().backward()
            embedding.grad = None
            found = dict(made.mod_grads)
            made.mod_grads.clear()
            return found

        return run

    def expected(gradients: dict[str, Tensor]) -> Outputs:
        made, found = collector(), {}
        for module, name in modules.items():
            gradient = gradients[name]
            shape = dict(zip(("left", "right"), gradient.shape[1:], strict=True))
            left, right = (
                made.projection(module, side, width, role, gradient.device, gradient.dtype)
                for role, width in shape.items()
            )
            found[module] = (left @ gradient @ right.T).flatten(1)
        return found

    gate = Close(lambda: expected(work.exact()), lambda: expected(work.rough()), required=list(modules))
    return Contender("bergson", prepare, gate, work.few)


# ---------------------------------------------------------------- cases


def _lora(setting: Setting, *, size: models.Size, trak: tuple[int, ...]) -> Workload:
    work = Pass(setting, size, kind="lora")
    ks = {k: 128 if setting.tiny else k for k in (512, 2048, 8192)}
    contenders = [
        plain(work, "plain"),
        *(captured(work, f"capture, sjlt k={k}", Sketch(kind="sjlt", k=ks[k])) for k in ks),
        loop(work),
        *(loop_trak(work, f"loop + trak k={k}", ks[k]) for k in trak),
        vmapped(work),
        opacus(work),
        opacus(work, ks[8192]),
    ]
    return Workload(work.shape, tuple(contenders))


def _linear(setting: Setting, *, size: models.Size, checked: int = CHECKED) -> Workload:
    work = Pass(setting, size, kind="linear", checked=checked)
    every = [name for name, _ in work.lm.model.named_parameters()]
    k = 256 if setting.tiny else 8192 if setting.suite == "gpu" else 4096
    peers_that_keep_gradients = [loop(work), vmapped(work), opacus(work, k)] if setting.suite == "cpu" else []
    contenders = [
        plain(work, "plain"),
        plain(work, "plain, all weights", every),
        captured(work, "capture, xorts", Sketch(kind="xorts", k=k)),
        captured(work, "capture, xorts x4", Sketch(kind="xorts", k=k, repetitions=4)),
        captured(work, "capture, sjlt", Sketch(kind="sjlt", k=k)),
        captured(work, "capture, sjlt + adam", Sketch(kind="sjlt", k=k), preconditioned=True),
        opacus(work),
        bergson(work),
        *peers_that_keep_gradients,
    ]
    return Workload(work.shape, tuple(contenders))


def _middle(setting: Setting, *, size: models.Size) -> Workload:
    """Everything that selection wants of one middle layer, by ``extract``, tokenisation included."""
    work = Pass(setting, size, kind="linear")
    every = [name for name, _ in work.lm.model.named_parameters()]
    sketch = Sketch(kind="sjlt", k=256 if setting.tiny else 4096)
    middle = list(find_targets(work.lm, "middle", "linear"))
    truth = models.Truth(work.lm, work.encoded, middle)

    def run() -> Any:
        return extract(
            work.lm,
            work.samples,
            sketch=sketch,
            layers="middle",
            parameters="linear",
            scores=("nll", "entropy", "el2n"),
            hidden="last",
            batch_tokens=work.size.samples * work.size.tokens,
        )

    def outputs(found: Any) -> Outputs:
        rows = slice(work.checked)
        scores = {name: torch.from_numpy(found.scores[name][rows]) for name in ("nll", "entropy", "el2n")}
        tensors = {"features": found.sketch, "hidden": found.hidden}
        return {**scores, **{name: torch.from_numpy(array[rows]) for name, array in tensors.items()}}

    def expected(gradients: dict[str, Tensor], dtype: torch.dtype) -> Outputs:
        return {"features": work.sketched(gradients, sketch).cpu(), **_scores(work, dtype)}

    gate = Close(
        lambda: expected(truth.exact(work.checked), truth.wider),
        lambda: expected(truth.rough(work.checked), setting.dtype),
        required=["features", "nll", "entropy", "el2n", "hidden"],
    )
    contenders = [
        plain(work, "plain, all weights", every),
        Contender("extract, middle layer", lambda: run, gate, outputs, ours=True),
    ]
    return Workload(work.shape, tuple(contenders))


def _scores(work: Pass, dtype: torch.dtype) -> Outputs:
    """NLL, entropy and EL2N (means over answer tokens) and hidden means of the first samples, from whole logits."""
    model = copy.deepcopy(work.lm.model).to(dtype)
    columns: dict[str, list[Tensor]] = {name: [] for name in ("nll", "entropy", "el2n", "hidden")}
    for one in work.encoded[: work.checked]:
        batch = models.collate(work.lm, [one])
        with torch.no_grad():
            found = model(input_ids=batch["input_ids"], output_hidden_states=True, use_cache=False)
        labels = batch["labels"][0, 1:]
        answer = labels != -100
        log_p = found.logits[0, :-1][answer].to(torch.promote_types(dtype, torch.float32)).log_softmax(1)
        p, y = log_p.exp(), labels[answer][:, None]
        columns["nll"].append(-log_p.gather(1, y).mean())
        columns["entropy"].append(-(p * log_p).sum(1).mean())
        others = p.scatter(1, y, 0.0)
        columns["el2n"].append((others.sum(1) ** 2 + (others**2).sum(1)).sqrt().mean())
        columns["hidden"].append(found.hidden_states[-1][0].double().mean(0))
    return {name: torch.stack(values).cpu() for name, values in columns.items()}


_LORA = ("plain", "capture, sjlt k=8192", "vmap(grad)", "opacus")
_LINEAR = ("plain", "capture, xorts", "capture, sjlt", "capture, sjlt + adam", "vmap(grad)", "opacus")


def _case(
    name: str, rank: int, suite: str, baseline: str, footprints: tuple[str, ...], build: Any, **more: Any
) -> Case:
    return Case(name, functools.partial(build, **more), baseline, rank, (suite,), footprints)


CASES = (
    _case("pass-lora", 1, "cpu", "plain", _LORA, _lora, size=models.SMALL, trak=(512, 2048, 8192)),
    _case("pass-linear", 2, "cpu", "plain", _LINEAR, _linear, size=models.SMALL),
    _case("pass-middle", 3, "cpu", "plain, all weights", (), _middle, size=models.SMALL),
    _case("pass-lora-10x", 50, "cpu", "plain", _LORA, _lora, size=models.MEDIUM, trak=(512,)),
    _case("pass-linear-10x", 51, "cpu", "plain", _LINEAR, _linear, size=models.MEDIUM),
    _case("pass-middle-10x", 52, "cpu", "plain, all weights", (), _middle, size=models.MEDIUM),
    _case("pass-lora-1b", 1, "gpu", "plain", (), _lora, size=models.LLAMA_1B, trak=(8192,)),
    _case("pass-linear-1b", 2, "gpu", "plain", (), _linear, size=models.LLAMA_1B, checked=1),
    _case("pass-middle-1b", 3, "gpu", "plain, all weights", (), _middle, size=models.LLAMA_1B),
    _case("pass-lora-8b", 60, "gpu", "plain", (), _lora, size=models.LLAMA_8B, trak=()),
)
