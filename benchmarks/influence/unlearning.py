"""LLMEraser's edits of a pre-trained language model against training it again.

Of the training samples some have another's answer and some another's query. From the one model trained on all of them
three edits are made: ``removal`` of as many good ones, ``correction`` of the wrong answers, ``query`` of the wrong
queries. Each is compared with the model that training from the same start on the samples so changed gives.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from adaptinf.config import DataConfig, LoraConfig, ModelConfig
from adaptinf.data import Sample, load_stream
from adaptinf.errors import SolverError
from adaptinf.influence import Edit, Solving, apply, correct_response, modify_query, remove
from adaptinf.models import Encoded, LanguageModel, add_lora, load_model, remove_lora
from benchmarks.influence.training import BATCH, Objective, Trained, copied, put, train, train_by_adam

MODEL, TASKS, MAX_TOKENS = "models/stories260K", ("haiku", "p3_generation"), 80
RANK = 4
EXTRA = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Damping beyond the weight decay, in units of it."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Problem:
    """What is trained, with what weight decay: the ``head`` (a convex problem), ``B`` of an adapter of the last layer
    whose A stays as it was drawn, or the whole ``adapter``."""

    trained: Literal["head", "B", "adapter"]
    decay: float


PROBLEMS = (Problem("head", 0.01), Problem("B", 0.005), Problem("adapter", 0.1))


@dataclass(frozen=True)
class Sizes:
    """Training samples, how many of them an edit concerns, held-out samples, and when training ends."""

    samples: int = 40
    edited: int = 2
    held_out: int = 60
    passes: int = 200
    slope: float = 1e-4
    epochs: int = 100


@dataclass(frozen=True)
class Change:
    """An edit as a call of the library; the samples to train on instead; those it is about."""

    edit: Callable[[Solving], Edit]
    samples: list[Sample]
    about: list[Sample]


def load(data: Path, cache: Path) -> tuple[LanguageModel, list[Sample], list[Sample]]:
    """The model, and what of the tasks' training and test samples is short enough, the tasks in turn."""
    lm = load_model(ModelConfig(name=str(data / MODEL), max_length=2 * MAX_TOKENS), cache=cache)
    config = DataConfig(source="bundle", root=str(data), order=list(TASKS), train_limit=800, test_limit=400)
    tasks = list(load_stream(config, seed=0, quarantine=None))

    def in_turn(parts: list[tuple[Sample, ...]]) -> list[Sample]:
        found = [list(zip(part, lm.encoder.encode_each(part, on_error="drop"), strict=True)) for part in parts]
        short = [
            [sample for sample, made in pairs if isinstance(made, Encoded) and len(made.input_ids) <= MAX_TOKENS]
            for pairs in found
        ]
        return [one for several in zip(*short, strict=False) for one in several]

    return lm, in_turn([task.train for task in tasks]), in_turn([task.test for task in tasks])


def measure(
    lm: LanguageModel, pool: Sequence[Sample], held_out: Sequence[Sample], problem: Problem, sizes: Sizes, seed: int
) -> Iterator[Row]:
    """A row for each edit and way to make it: the two forms of ``adaptinf.influence``, ``continued``, which is training
    on from the trained model for as many operations as the ``newton`` edit took, and for a removal ``adam``, which is
    training from the start as one commonly does.

    ``left`` is the distance to the retrained weights, as a share of that before. Retraining is by L-BFGS to the end;
    ``seconds`` and ``flops`` are shares of its cost. ``nll`` and ``accuracy`` (of the next token) are of the held-out
    answers, ``about_nll`` is of the samples that the edit is about.
    """
    start = prepare(lm, problem, seed)
    generator = np.random.default_rng(seed)
    chosen = [pool[i] for i in generator.permutation(len(pool))[: sizes.samples]]
    tested = Objective(lm, [held_out[i] for i in generator.permutation(len(held_out))[: sizes.held_out]], 0.0)
    samples, changes = _plan(lm, chosen, sizes.edited)
    limits = {"passes": sizes.passes, "slope": sizes.slope}
    before = train(Objective(lm, samples, problem.decay), start, **limits)
    for name, change in changes.items():
        objective, about = Objective(lm, change.samples, problem.decay), Objective(lm, change.about, 0.0)
        retrained = train(objective, start, **limits)
        wanted, at_best = weights(lm), _scores(tested, about, "retrained")
        put(objective.parameters, before.parameters)
        far, at_first = float((weights(lm) - wanted).norm()), _scores(tested, about, "before")
        row = {
            "study": "unlearning",
            "problem": problem.trained,
            "decay": problem.decay,
            "edit": name,
            "seed": seed,
            "distance": far,
            "norm": float(wanted.norm()),
            "passes": retrained.passes,
            "slope": max(before.slope, retrained.slope),
            **at_best,
            **at_first,
        }
        for way, cost in _ways(lm, change, objective, before, problem.decay, retrained):
            left = float((weights(lm) - wanted).norm()) / far
            yield {**row, "way": way, "left": left, **cost, **_scores(tested, about, "edited")}
        if name == "removal":
            found = train_by_adam(objective, start, epochs=sizes.epochs, seed=seed)
            left = float((weights(lm) - wanted).norm()) / far
            cost = _shares(found.seconds, found.flops, retrained)
            yield {**row, "way": "adam", "left": left, **cost, **_scores(tested, about, "edited")}


def prepare(lm: LanguageModel, problem: Problem, seed: int) -> list[Tensor]:
    """Make the problem's parameters the ones that are trained; they are as before any training."""
    remove_lora(lm)
    lm.model.requires_grad_(requires_grad=False)
    if problem.trained == "head":
        embedding = lm.base.get_input_embeddings().weight  # which the head is tied to
        lm.base.get_output_embeddings().weight = nn.Parameter(embedding.detach().clone())
    else:
        last = lm.decoder_layers[-1][0].rpartition(".")[2]
        add_lora(lm, LoraConfig(r=RANK, alpha=2 * RANK, target_modules=[f"{last}.mlp.down_proj"]), seed=seed)
    parameters = [
        parameter
        for name, parameter in lm.model.named_parameters()
        if parameter.requires_grad and not (problem.trained == "B" and ".lora_A." in name)
    ]
    lm.model.requires_grad_(requires_grad=False)
    for parameter in parameters:
        parameter.requires_grad_()
    return copied(parameters)


def weights(lm: LanguageModel) -> Tensor:
    """What training changed, as the model multiplies with it: A and B may be turned against each other, their product
    may not."""
    deltas = [module.get_delta_weight("default") for module in lm.model.modules() if isinstance(module, LoraLayer)]
    return torch.cat([delta.detach().flatten() for delta in deltas or [lm.base.get_output_embeddings().weight]])


def _plan(lm: LanguageModel, chosen: list[Sample], edited: int) -> tuple[list[Sample], dict[str, Change]]:
    """The samples to train on first, and the changes of them."""
    gone, answers, queries, rest = (
        chosen[:edited],
        chosen[edited : 2 * edited],
        chosen[2 * edited : 3 * edited],
        chosen[3 * edited :],
    )
    wrong = [replace(one, answer=other.answer) for one, other in _next(answers)]
    astray = [replace(one, messages=other.messages) for one, other in _next(queries)]
    kept, unanswered, unasked = [*wrong, *astray, *rest], [*gone, *astray, *rest], [*gone, *wrong, *rest]
    changes = {
        "removal": Change(lambda solving: remove(lm, gone, kept, solving), kept, gone),
        "correction": Change(
            lambda solving: correct_response(lm, wrong, answers, unanswered, solving), [*answers, *unanswered], answers
        ),
        "query": Change(
            lambda solving: modify_query(lm, astray, queries, unasked, solving), [*queries, *unasked], queries
        ),
    }
    return [*gone, *kept], changes


def _next(samples: list[Sample]) -> list[tuple[Sample, Sample]]:
    return list(zip(samples, [*samples[1:], samples[0]], strict=True))


def _ways(
    lm: LanguageModel, change: Change, objective: Objective, before: Trained, decay: float, retrained: Trained
) -> Iterator[tuple[str, Row]]:
    """The name and cost of each way; the model is left edited so."""
    flops: dict[str, float] = {}
    for form in ("newton", "paper"):
        put(objective.parameters, before.parameters)
        begun = time.process_time()
        found = _edit(lm, change, objective, before, decay, form)
        seconds = time.process_time() - begun
        put(objective.parameters, before.parameters)
        with FlopCounterMode(display=False) as counter:  # slows it down, so not in the timed one
            _edit(lm, change, objective, before, decay, form)
        flops[form] = counter.get_total_flops()
        yield form, {**_shares(seconds, flops[form], retrained), **found}
    passes = max(round(flops["newton"] / retrained.flops * retrained.passes), 1)
    on = train(objective, before.parameters, passes=passes, slope=0.0)
    yield "continued", _shares(on.seconds, on.flops, retrained)


def _shares(seconds: float, flops: float, retrained: Trained) -> Row:
    return {"seconds": seconds / retrained.seconds, "flops": flops / retrained.flops}


def _edit(lm: LanguageModel, change: Change, objective: Objective, before: Trained, decay: float, form: Any) -> Row:
    """Edit the model, with the least damping that makes H positive definite and the objective of the samples to train
    on instead lower: nothing else is looked at."""
    value = objective.value()
    for extra in EXTRA:
        damping = decay * (1 + extra)
        try:
            edit = change.edit(Solving(damping, form=form, tolerance=0.1, batch_size=BATCH, keep_graphs=True))
        except SolverError:
            continue
        apply(lm, edit)
        if objective.value() < value:
            return {"damping": damping, "iterations": edit.iterations}
        put(objective.parameters, before.parameters)
    raise SolverError("no damping makes the edit an improvement", item=form, remedy="train for longer")


def _scores(tested: Objective, about: Objective, when: str) -> Row:
    scores = {"nll": tested.value(), "accuracy": tested.accuracy(), "about_nll": about.value()}
    return {f"{when}_{name}": value for name, value in scores.items()}
