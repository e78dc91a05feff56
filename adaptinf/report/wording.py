"""What the report says in words: the headline, the headline figures, and the sentences over the tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adaptinf.config import UNBUDGETED
from adaptinf.report.costs import costs
from adaptinf.report.metrics import value_of
from adaptinf.report.run_view import RunView, Step
from adaptinf.report.tables import averages
from adaptinf.report.units import MISSING, bare_percent, count, decimal, duration, percent, points

STRATEGIES = {
    "paper": (
        "Adapt-∞ as published: samples are clustered by gradient, "
        "and each cluster picks the score that tells its samples apart best"
    ),
    "released": "Adapt-∞ with the formulas of its released code",
    "lite": "Adapt-∞ LITE: as published, and the pool is pruned after every step",
    "random_replay": "samples drawn at random from everything that has arrived",
    "sequential": "all of the new dataset, nothing older",
    "rehearsal": "all of the new dataset, and a few samples of each older one",
    "instructalign": "all of the new dataset, and a few of all older samples",
    "multitask": "everything that ever arrived, trained on once at the end",
    "switch": "SwitchCIT: an adapter for every task, and a router that sends each request to one of them",
}

STAGE_MEANING = {
    "features": "one pass of the model over the pool: gradient sketches and scores",
    "selection": "clustering, choice of the score, drawing within the budget",
    "training": "LoRA fit on the selected samples",
    "routing": "the router learns the new task",
    "evaluation": "every task's test samples",
    "pool": "pruning of near-duplicates from the pool, and the gallery",
}

_POLICIES = (
    ("model.on_long", "a sample longer than the model's context"),
    ("features.on_nonfinite", "a feature or score that is NaN or infinite"),
    ("training.on_nonfinite", "a training step whose loss is not finite"),
    ("data.max_bad_fraction", "a larger share of broken records is an error"),
)


@dataclass(frozen=True)
class Tile:
    """One headline figure."""

    name: str
    figure: str
    unit: str
    more: str


def run_title(run: RunView) -> str:
    tasks = "1 task" if len(run.tasks) == 1 else f"{len(run.tasks)} tasks, one after another"
    return f"{run.strategy}: {tasks}"


def run_lead(run: RunView) -> str:
    """What was done, for somebody who has never seen the tool."""
    model = run.model or "The model"
    intro = f"{model} is taught {'one task' if len(run.tasks) == 1 else f'{len(run.tasks)} tasks in a row'}."
    arrives = "joins a pool, and" if run.strategy != "switch" else "gets an adapter of its own, and"
    what = f" At each step a dataset arrives and {arrives} {run.strategy} decides what to train on"
    meaning = f" ({STRATEGIES[run.strategy]})" if run.strategy in STRATEGIES else ""
    return f"{intro}{what}{meaning}. {_trained_sentence(run)}".strip()


def comparison_lead(runs: Sequence[RunView], labels: Sequence[str]) -> str:
    """Which strategy ended highest, by how much, and what that rests on."""
    ended = [(value_of(run, "average_accuracy"), label) for run, label in zip(runs, labels, strict=True)]
    ranked = sorted((pair for pair in ended if not math.isnan(pair[0])), reverse=True)
    intro = f"{len(runs)} ways of choosing training samples, on the same stream of {len(runs[0].tasks)} tasks."
    if len(ranked) < 2:
        return f"{intro} Their final metrics are not all there yet."
    (best, first), (next_best, second) = ranked[:2]
    if abs(best - next_best) < 0.0005:
        verdict = f"{first} and {second} end level, at an average accuracy of {percent(best)}."
    else:
        verdict = (
            f"{first} ends with the highest average accuracy, {percent(best)}: "
            f"{points(best - next_best).lstrip('+')} points above {second}."
        )
    ran_once = len({run.strategy for run in runs}) == len(runs)
    caution = " Each strategy ran once: a difference of a few points can be chance." if ran_once else ""
    return f"{intro} {verdict}{caution}"


def facts(run: RunView) -> list[tuple[str, str]]:
    """The setup in one line each; what is unknown is left out."""
    pruning = (run.config.get("pruning") or {}).get("pool_budget")
    skills = list(dict.fromkeys(task.skill for task in run.tasks if task.skill))
    rows = [
        ("Model", run.model),
        ("Strategy", run.strategy),
        ("Tasks", f"{len(run.tasks)}" + (f" ({', '.join(skills)})" if skills else "")),
        ("Training budget", budget_text(run)),
        ("Pool", _pool_text(run, pruning) if run.config else ""),
        ("Seed", "" if run.seed is None else str(run.seed)),
        ("adaptinf", run.versions.get("adaptinf", "")),
        ("Directory", run.path.name),
    ]
    return [(name, value) for name, value in rows if value]


def shared_facts(runs: Sequence[RunView]) -> list[tuple[str, str]]:
    """The facts that all runs have in common; the others stand at each run."""
    return [fact for fact in facts(runs[0]) if all(fact in facts(run) for run in runs[1:])]


def own_facts(run: RunView, runs: Sequence[RunView]) -> list[tuple[str, str]]:
    """The facts that set one run apart."""
    return [fact for fact in facts(run) if fact not in shared_facts(runs)]


def budget_text(run: RunView) -> str:
    """Empty for a strategy that asks no budget."""
    if run.budget is None or _chooses_by(run) in UNBUDGETED:
        return ""
    return f"{_share_or_count(run.budget, 'the new' if run.strategy == 'switch' else 'all')}, at each step"


def _pool_text(run: RunView, pruning: float | int | None) -> str:
    if run.strategy == "switch":
        return "keeps nothing: each adapter holds what was learned"
    return "keeps everything" if pruning is None else f"pruned to {_share_or_count(pruning)}"


def routing_sentence(run: RunView) -> str:
    """How good the routes of the last evaluation were, and what wrong ones cost."""
    routing = run.routing
    return (
        f"{percent(routing['routing_accuracy'])} of the test requests reached their own task's adapter at the end. "
        f"Through the right adapters the average score would be {points(routing['oracle_gap'])} points higher."
    )


def tiles(run: RunView) -> list[Tile]:
    """The four figures that matter most; of an unfinished run, those so far."""
    means = [value for value in averages(run)[1:] if not math.isnan(value)]
    last = value_of(run, "average_accuracy") if run.finished else means[-1] if means else math.nan
    base = averages(run)[0] if len(run.matrix) else math.nan
    forgetting = value_of(run, "forgetting")
    chosen, offered = _totals(run)
    seconds = costs(run, "seconds")
    return [
        Tile(
            "Average accuracy" if run.finished else "Average accuracy so far",
            bare_percent(last),
            "%",
            f"over {'all tasks' if run.finished else 'the tasks seen'}; the untrained model has {percent(base)}",
        ),
        Tile(
            "Forgetting",
            bare_percent(forgetting),
            "" if math.isnan(forgetting) else "points",
            "mean fall of earlier tasks from their best score",
        ),
        Tile(
            "Trained on",
            count(chosen),
            "samples",
            f"of {count(offered)} offered over all steps ({percent(_ratio(chosen, offered), 0)})",
        ),
        Tile(
            "Time saved on balance",
            duration(seconds.net),
            "",
            f"{duration(seconds.saved)} of training (extrapolated), minus {duration(seconds.choosing)} of choosing",
        ),
    ]


def comparison_tiles(runs: Sequence[RunView], labels: Sequence[str]) -> list[Tile]:
    """One figure a run: where it ended."""
    return [
        Tile(
            label,
            bare_percent(value_of(run, "average_accuracy")),
            "% average accuracy",
            f"forgetting {bare_percent(value_of(run, 'forgetting'))} points; "
            f"trained on {count(_totals(run)[0])} samples in {duration(costs(run, 'seconds').training)}, "
            f"chosen in {duration(costs(run, 'seconds').choosing)}",
        )
        for run, label in zip(runs, labels, strict=True)
    ]


def warnings_of(runs: Sequence[RunView], labels: Sequence[str]) -> list[str]:
    """What a reader must know before any number: unfinished runs, runs that do not compare."""
    found = []
    for run, label in zip(runs, labels, strict=True):
        if not run.finished:
            done = sum(step.stages >= {"training", "evaluation"} for step in run.learning_steps)
            which = "This run" if len(runs) == 1 else label
            found.append(
                f"{which} is not finished: {done} of {len(run.tasks)} steps are trained and evaluated. "
                "What is there is shown; start the run again with the same directory and it continues."
            )
    if len({run.fingerprint for run in runs}) > 1 or len({tuple(t.name for t in run.tasks) for run in runs}) > 1:
        found.append("The runs saw different streams of data: their numbers do not compare directly.")
    if len({run.model for run in runs}) > 1:
        found.append("The runs tuned different models.")
    budgeted = {run.budget for run in runs if _chooses_by(run) not in UNBUDGETED}
    if len(budgeted) > 1:
        found.append("The runs had different training budgets.")
    return found


def _chooses_by(run: RunView) -> str:
    routing = run.config.get("routing") or {}
    return str(routing.get("selector", "full")) if run.strategy == "switch" else run.strategy


def cost_sentence(run: RunView) -> str:
    """Seconds spent on choosing against seconds of training saved."""
    cost = costs(run, "seconds")
    if math.isnan(cost.net):
        return "No step has been selected and trained yet, so there is nothing to weigh."
    spent = f"Choosing took {duration(cost.choosing)} and training on what was chosen {duration(cost.training)}."
    about = duration(cost.training_whole_pool)
    whole = f"Training on the whole pool of every step would have taken about {about} (extrapolated)"
    if cost.saved <= 0:
        return f"{spent} {whole}: this strategy leaves nothing out, so it saves nothing."
    if cost.net < 0:
        return f"{spent} {whole}: choosing cost {duration(-cost.net)} more than the training it saved."
    ratio = decimal(cost.saved / cost.choosing, 1) if cost.choosing > 0 else ""
    each = f", {ratio}\u00a0s of training for each second of choosing" if ratio else ""
    return f"{spent} {whole}: {duration(cost.net)} saved on balance{each}."


def quarantine_sentence(run: RunView) -> str:
    if run.n_quarantined == 0:
        return "No record was quarantined: every line and every picture of the data could be read."
    records = "1 record" if run.n_quarantined == 1 else f"{count(run.n_quarantined)} records"
    return f"{records} could not be used and {'was' if run.n_quarantined == 1 else 'were'} left out."


def counter_rows(run: RunView) -> list[tuple[str, str]]:
    """The run's counters, and those of the steps' selections summed."""
    summed: dict[str, float] = {}
    for step in run.learning_steps:
        for name, value in step.counters.items():
            if isinstance(value, (int, float)):
                summed[name] = summed.get(name, 0) + value
    rows = _flat(run.counters) + [(f"selection: {name}", value) for name, value in summed.items()]
    return [
        (name.replace("_", " "), count(value) if isinstance(value, (int, float)) else str(value))
        for name, value in rows
    ]


def policy_rows(run: RunView) -> list[tuple[str, str, str]]:
    rows = []
    for key, meaning in _POLICIES:
        section, name = key.split(".")
        value = (run.config.get(section) or {}).get(name)
        if value is not None:
            rows.append((key, str(value), meaning))
    return rows


def drop_rows(run: RunView) -> list[tuple[Step, str, int]]:
    return [(step, reason, number) for step in run.learning_steps for reason, number in step.dropped.items()]


def environment_rows(run: RunView) -> list[tuple[str, str]]:
    rows = [(name, str(version)) for name, version in run.versions.items()]
    rows += [(f"features: {name}", str(value)) for name, value in _flat(run.identity)]
    if run.fingerprint:
        rows.append(("data fingerprint", run.fingerprint))
    if not math.isnan(run.seconds_total):
        rows.append(("all stages together", duration(run.seconds_total)))
    return rows


def gallery_figures(step: Step) -> str:
    parts = [f"selected {count(step.n_selected)}"]
    if step.n_kept is not None and step.n_pool is not None:
        parts += [f"kept {count(step.n_kept)}", f"dropped {count(step.n_pool - step.n_kept)}"]
    return " · ".join(parts)


def _trained_sentence(run: RunView) -> str:
    chosen, offered = _totals(run)
    if not offered:
        return ""
    return f"It trained on {count(chosen)} of the {count(offered)} samples that the steps could choose from."


def _totals(run: RunView) -> tuple[int, int]:
    """Samples trained on, and samples of the pools they were chosen from, over the trained steps."""
    steps = [step for step in run.learning_steps if step.decisions and "training" in step.stages]
    return sum(step.n_selected or 0 for step in steps), sum(step.n_pool or 0 for step in steps)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _share_or_count(value: float | int, of: str = "all") -> str:
    if isinstance(value, float):
        samples = "all samples so far" if of == "all" else f"{of} samples"
        return f"{decimal(100 * value, 1).removesuffix('.0')}\u00a0% of {samples}"
    return f"{count(value)} samples"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in tree.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{name}: ")
        else:
            rows.append((f"{prefix}{name}", MISSING if value is None else value))
    return rows
