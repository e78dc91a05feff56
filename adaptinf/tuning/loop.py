"""The lifelong loop as a state machine.

At each arrival: features of the pool, selection, training, routing (strategy switch), evaluation, pruning. Every arrow
writes one artefact (see docs/architecture.md, "The run directory") and reads only artefacts, the data and the base
model; an arrow whose artefact is complete is not run again. So a run killed anywhere continues where it died and ends
with the same bytes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from adaptinf.capture import Features, extract_as
from adaptinf.config import RunConfig, load_config, to_dict, to_yaml
from adaptinf.data import Sample, TaskDataset, TaskStream, apart, group_of, load_stream, split_pretraining, unit_hash
from adaptinf.data.stream import draw
from adaptinf.errors import ConfigError, EmptyTaskError, IdentityError
from adaptinf.evaluation import evaluate_stream, write_results
from adaptinf.models import load_model, save_adapter
from adaptinf.routing import RoutedModel
from adaptinf.routing.configured import ConfiguredRouting
from adaptinf.routing.evaluation import evaluate_routed, write_routed
from adaptinf.routing.routed import write_routed_model
from adaptinf.routing.router import FeatureRouter
from adaptinf.routing.saving import write_router
from adaptinf.selection import Pool, keep_none, prune
from adaptinf.store import (
    create,
    digest,
    is_complete,
    manifest,
    read_json,
    read_table,
    replace_file,
    write_json,
    write_table,
)
from adaptinf.store.io import json_bytes
from adaptinf.tuning.decisions import cluster_map, decisions_table, gallery_table, pool_table, read_selection
from adaptinf.tuning.fisher import empirical_fisher, save_fisher
from adaptinf.tuning.fit import fit
from adaptinf.tuning.lineage import Lineage
from adaptinf.tuning.moments import load_moments, save_moments
from adaptinf.tuning.outcome import outcome
from adaptinf.tuning.regularisers import check_regulariser, make_regulariser
from adaptinf.tuning.seeds import stage_seed
from adaptinf.tuning.strategy import make_strategy


def run(config: RunConfig, out: Path | str | None = None) -> Path:
    """Run (or continue) one strategy over one stream in the directory ``out`` and return it.

    Raises IdentityError when the directory holds a run of another configuration or other data, and whatever the
    stages raise; artefacts already complete stay, and the next call continues after them.
    """
    place = Path(out or config.out or f"runs/{config.strategy}")
    place.mkdir(parents=True, exist_ok=True)
    _claim(place, config)
    stream, pretraining = open_stream(config, place / "quarantine.jsonl")
    Loop(config, place, stream, pretraining).run()
    return place


def open_stream(config: RunConfig, quarantine: Path | None = None) -> tuple[TaskStream, list[Sample]]:
    """The stream of a run, and what its preset is pre-trained on (nothing for other models).

    Raises what reading raises, and ConfigError where ``model.pretrain.tasks`` names a task of the stream.
    """
    stream = load_stream(config.data, seed=config.seed, quarantine=quarantine)
    if config.model.name != "small-vlm":
        return stream, []
    recipe = config.model.pretrain
    if not recipe.tasks:
        pretraining, stream = split_pretraining(stream, recipe.fraction, recipe.seed)
        return stream, pretraining
    if both := sorted({task.name for task in stream} & set(recipe.tasks)):
        raise ConfigError("are in the stream", item=f"model.pretrain.tasks {both}", remedy="name other tasks")
    others = replace(config.data, order=recipe.tasks, train_fraction=1.0, train_limit=recipe.train_limit)
    return stream, apart(load_stream(others, seed=recipe.seed, quarantine=None), stream)


@dataclass
class Step:
    """One arrival: its number (1-based), its folder, and the ids of the pool with whether they are new."""

    number: int
    place: Path
    pool: list[str]
    new: set[str]
    n_seen: int

    @property
    def is_new(self) -> np.ndarray:
        return np.array([id in self.new for id in self.pool], bool)


class Loop:
    def __init__(self, config: RunConfig, place: Path, stream: TaskStream, pretraining: list[Sample]) -> None:
        self.config, self.place, self.stream = config, place, stream
        self.strategy = make_strategy(config)
        check_regulariser(config)
        self.samples = {sample.id: sample for task in stream for sample in task.train}
        for task in stream:
            if not task.train or not task.test:
                raise EmptyTaskError(
                    f"has {len(task.train)} training and {len(task.test)} test samples",
                    item=task.name,
                    remedy="check its files and limits, or leave it out of data.order",
                )
        cache = config.cache_dir
        self.adapters: dict[int, Path] = {}
        self.n_trained: Counter[str] = Counter()
        self.measured: Path | None = None
        self._routing: ConfiguredRouting | None = None
        self._experts: dict[str, Path] = {}
        self.lineage = Lineage(
            config,
            self.strategy.carry,
            lambda: load_model(config.model, pretraining=pretraining, cache=cache),
            self.adapters,
        )
        self._parent = digest({"config": _identity(config), "stream": stream.fingerprint()})

    def run(self) -> None:
        self._describe_stream()
        base = self._place(0) / "evaluation"
        if not is_complete(base):
            self.lineage.after(0)  # making the model (a preset is pre-trained) is no part of the evaluation's time
        self._stage(base, lambda to: self._evaluate(to, 0))
        pool: list[str] = []
        n_seen = 0
        for number, task in enumerate(self.stream, start=1):
            new = [sample.id for sample in task.train]
            n_seen = len(new) if self.strategy.routed else n_seen + len(new)
            step = Step(number, self._place(number), pool + new, set(new), n_seen)
            if self.strategy.trains_at(number, len(self.stream)):
                pool = self._step(step)
            else:
                pool = step.pool
        if self.strategy.routed:
            self._stage(self.place / "routed", self._deploy)
        result = outcome(self.config, self.stream, self.place)
        replace_file(self.place / "metrics.json", json_bytes(result))

    def _step(self, step: Step) -> list[str]:
        """The arrows of one arrival; returns the pool that it leaves."""
        place = step.place
        if self._needs_features():
            self._stage(place / "features", lambda to: self._extract(to, step))
            self.measured = place / "features"
        self._stage(place / "selection", lambda to: self._select(to, step))
        self.n_trained.update(read_selection(place / "selection"))
        self._stage(place / "training", lambda to: self._train(to, step))
        self.adapters[step.number] = place / "training" / "adapter"
        self._experts[self.stream[step.number - 1].name] = self.adapters[step.number]
        if self.strategy.routed:
            self._stage(place / "routing", lambda to: self._learn_to_route(to, step))
        self._stage(place / "evaluation", lambda to: self._evaluate(to, step.number))
        self._stage(place / "pool", lambda to: self._prune(to, step))
        table = read_table(place / "pool" / "pool.parquet")
        return [id for id, kept in zip(table["id"].to_pylist(), table["kept"].to_pylist(), strict=True) if kept]

    def _extract(self, to: Path, step: Step) -> tuple[float, int]:
        needs, before = self.strategy.selector.needs(), self._trained_before(step)
        lm = self.lineage.after(before)
        once = self.config.features.refresh == "arrival"
        if once and needs.direction:
            raise ConfigError(
                f"{self.config.strategy} needs the optimiser's directions of every step",
                item="features.refresh",
                remedy="leave it at step",
            )
        earlier = Features.load(self.measured).take(set(step.pool)) if once and self.measured is not None else None
        ids = step.pool if earlier is None else [id for id in step.pool if id in step.new]
        found = extract_as(
            self.config.features,
            lm,
            [self.samples[id] for id in ids],
            columns=needs.scores,
            sketch=needs.sketch,
            hidden=needs.hidden or self.strategy.pool_budget is not None,
            preconditioners=load_moments(self.adapters[before].parent, lm.device) if needs.direction and before else {},
            on_error=self.config.model.on_long,
            description=f"step {step.number}: features",
        )
        (found if earlier is None else earlier.then(found)).save(to)
        return found.flops, len(ids)

    def _select(self, to: Path, step: Step) -> tuple[float, int]:
        features = Features.load(step.place / "features") if self._needs_features() else None
        pool = self._pool(step, features)
        budget = self.strategy.budget(self.config.budget, step.n_seen, len(pool.ids))
        selection = self.strategy.selector.select(pool, budget, stage_seed(self.config.seed, step.number, "selection"))
        write_table(to / "decisions.parquet", decisions_table(pool, selection, features))
        write_json(
            to / "summary.json",
            {**selection.summary, "budget": budget, "n_pool": len(step.pool), "n_seen": step.n_seen},
        )
        if features is not None and features.sketch is not None:
            write_table(to / "map.parquet", cluster_map(features))
        return 0.0, len(pool.ids)

    def _train(self, to: Path, step: Step) -> tuple[float, int]:
        chosen = read_selection(step.place / "selection")
        lm = self.lineage.start_of(step.number)
        self.lineage.forget()
        seed = stage_seed(self.config.seed, step.number, "training")
        samples = [self.samples[id] for id in chosen]
        training = self.config.training
        earlier = [self.adapters[number].parent for number in sorted(self.adapters) if number < step.number]
        result = fit(
            lm,
            samples,
            training,
            seed=seed,
            on_long=self.config.model.on_long,
            regulariser=make_regulariser(training, lm, earlier),
        )
        flops = result.flops
        save_adapter(lm, to / "adapter")
        if training.regulariser == "ewc":
            left_out = {*dict(result.dropped), *result.skipped}
            drawn = draw([one for one in samples if one.id not in left_out], training.fisher_samples, seed)
            fisher, passed = empirical_fisher(lm, drawn)
            save_fisher(fisher, earlier[-1] if earlier else None, to)
            flops += passed
        if self.strategy.selector.needs().direction:
            save_moments(result.moments, to)
        write_table(to / "history.parquet", result.history)
        counters = {"steps": result.steps, "dropped": dict(result.dropped), "skipped": result.skipped}
        write_json(to / "counters.json", counters)
        return flops, result.n_samples

    def _learn_to_route(self, to: Path, step: Step) -> tuple[float, int]:
        router = self._router(step.number - 1)
        before, task = router.flops, self.stream[step.number - 1]
        router.add_task(task.name, task.train)
        write_router(router, to)
        return router.flops - before, len(task.train)

    def _router(self, step: int) -> FeatureRouter:
        """The router as that step left it. It looks through the bare base, which is the same object at every step."""
        base = self.lineage.bare()
        if self._routing is None:
            self._routing = ConfiguredRouting(self.config, base, self._experts)
        return self._routing.load(self._place(step) / "routing") if step else self._routing.new()

    def _deploy(self, to: Path) -> tuple[float, int]:
        write_routed_model(to, self.config, self._router(len(self.stream)), self._experts)
        return 0.0, len(self._experts)

    def _evaluate(self, to: Path, step: int) -> tuple[float, int]:
        evaluation = self.config.evaluation
        settings: dict[str, Any] = {
            "limit": evaluation.limit,
            "batch_size": evaluation.batch_size,
            "seed": stage_seed(self.config.seed, 0, "evaluation"),
            "nll": evaluation.nll,
            "on_error": self.config.model.on_long,
            "prompts_together": evaluation.prompts_together,
        }
        if self.strategy.routed and step:
            router = self._router(step)
            model = RoutedModel(self.lineage.bare(), router)
            for task, adapter in self._experts.items():
                model.add_adapter(task, adapter)
            found = evaluate_routed(model, self._evaluated(step), **settings)
            write_routed(to, found)
            results, flops = found.results, found.flops
        else:
            results, flops = evaluate_stream(self.lineage.after(step), self._evaluated(step), **settings), 0.0
            write_results(to, results)
        return flops + sum(result.flops for result in results), sum(result.n for result in results)

    def _evaluated(self, step: int) -> Sequence[TaskDataset]:
        tasks, last = self.stream.tasks, len(self.stream)
        which = self.config.evaluation.tasks
        if which == "all" or step == last:
            return tasks
        return tasks[: max(step, 1)] if which == "seen" else tasks[max(step, 1) - 1 : max(step, 1)]

    def _prune(self, to: Path, step: Step) -> tuple[float, int]:
        decisions = read_table(step.place / "selection" / "decisions.parquet")
        size = self.strategy.pool_size(step.n_seen, len(decisions))
        pruned = keep_none(int((~decisions["dropped"].to_numpy()).sum())) if self.strategy.routed else None
        if self.strategy.pool_budget is not None:
            features = Features.load(step.place / "features")
            assert features.hidden is not None  # the extraction of a strategy that prunes asks for it
            usable = decisions.slice(0, len(features))  # the samples without features come last and are not kept
            by_group = self.config.pruning.within == "group"
            pruned = prune(
                usable,
                features.hidden,
                size,
                clusters=self._groups(usable["id"].to_pylist()) if by_group else usable["cluster"].to_numpy(),
                order=self.config.pruning.order,
                keep=self.config.pruning.keep,
                seed=stage_seed(self.config.seed, step.number, "pool"),
            )
        table = pool_table(decisions, pruned)
        write_table(to / "pool.parquet", table)
        seed = stage_seed(self.config.seed, step.number, "gallery")
        write_table(to / "gallery.parquet", gallery_table(table, self.samples, self.config.report.gallery, seed))
        return 0.0, len(decisions)

    def _groups(self, ids: list[str]) -> np.ndarray:
        """Numbers of the samples' groups, in an order drawn by the seed: the first ones get what is left over."""
        groups = [group_of(self.samples[id]) for id in ids]
        drawn = sorted(set(groups), key=lambda group: unit_hash(self.config.seed, "pruning", group))
        number = {group: i for i, group in enumerate(drawn)}
        return np.array([number[group] for group in groups])

    def _pool(self, step: Step, features: Features | None) -> Pool:
        """What the selector sees: the samples with features, or all of the pool where it needs none."""
        ids = features.ids if features is not None else step.pool
        return Pool(
            ids=ids,
            tasks=[self.samples[id].task for id in ids],
            is_new=np.array([id in step.new for id in ids], bool),
            scores=features.scores if features is not None else {"n_images": self._n_images(ids)},
            sketch=features.sketch if features is not None else None,
            hidden=features.hidden if features is not None else None,
            direction=features.direction if features is not None else None,
            n_trained=np.array([self.n_trained[id] for id in ids], np.int64),
        )

    def _n_images(self, ids: Sequence[str]) -> np.ndarray:
        return np.array([len(self.samples[id].images) for id in ids], float)

    def _needs_features(self) -> bool:
        return bool(self.strategy.selector.needs()) or self.strategy.pool_budget is not None

    def _trained_before(self, step: Step) -> int:
        """The step whose model the next one is trained from; 0 for a routed strategy, which starts from the base."""
        if self.strategy.routed:
            return 0
        return max((number for number in self.adapters if number < step.number), default=0)

    def _place(self, step: int) -> Path:
        return self.place / "steps" / f"{step:02d}_{self.stream[step - 1].name if step else 'base'}"

    def _stage(self, path: Path, work: Callable[[Path], tuple[float, int]]) -> None:
        """One arrow: run ``work`` unless its artefact is complete. Each names its parent, so that they form a chain."""
        identity = {"parent": self._parent}
        if not is_complete(path, identity):
            with create(path, identity) as staging:
                started, cpu_started = time.perf_counter(), time.process_time()
                flops, items = work(staging)
                seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
                rate = items / seconds if seconds else 0.0
                timing = {"seconds": seconds, "cpu_seconds": cpu_seconds, "flops": flops, "items": items}
                timing["items_per_second"] = rate
                write_json(staging / "timing.json", timing)
        self._parent = digest(manifest(path))

    def _describe_stream(self) -> None:
        tasks = [
            {"name": t.name, "skill": t.skill, "metric": t.metric, "n_train": len(t.train), "n_test": len(t.test)}
            for t in self.stream
        ]
        about = {"tasks": tasks, "fingerprint": self.stream.fingerprint(), "quarantined": self.stream.quarantined}
        file = self.place / "stream.json"
        if file.exists() and read_json(file)["fingerprint"] != about["fingerprint"]:
            raise IdentityError(
                "the data changed since this run began", item=str(file), remedy="choose another output directory"
            )
        replace_file(file, json_bytes(about))


def _identity(config: RunConfig) -> dict[str, Any]:
    """The settings that decide the results: all but where they are written and how they are shown."""
    settings = to_dict(config)
    for name in ("out", "cache", "report"):
        settings.pop(name)
    return settings


def _claim(place: Path, config: RunConfig) -> None:
    """Write the resolved configuration, or compare with that of the artefacts that are there."""
    file = place / "config.yaml"
    if file.exists() and any(is_complete(artefact) for artefact in place.glob("steps/*/*")):
        found, wanted = _flat(_identity(load_config(file))), _flat(_identity(config))
        differing = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
        if differing:
            raise IdentityError(
                f"holds a run of another configuration (they differ in: {', '.join(differing)})",
                item=str(place),
                remedy="choose another output directory with --out, or delete this one",
            )
    replace_file(file, to_yaml(config).encode())


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
