"""From a data configuration to a stream of tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from adaptinf.config import DataConfig, TaskSpec
from adaptinf.data.bundle import BUNDLE, BUNDLE_ORDER, with_instructions
from adaptinf.data.demo import demo_tasks
from adaptinf.data.hf import read_hf
from adaptinf.data.images import ImageFolder, resolve_under
from adaptinf.data.instruction import instructions_last
from adaptinf.data.jsonl import read_jsonl
from adaptinf.data.llava import read_llava
from adaptinf.data.names import choose
from adaptinf.data.parquet import read_parquet
from adaptinf.data.quarantine import Quarantine
from adaptinf.data.sample import Sample
from adaptinf.data.stream import TaskDataset, TaskStream, draw, split_by_group
from adaptinf.errors import ConfigError, DataError, ImageError
from adaptinf.progress import progress

_READERS = {"jsonl": read_jsonl, "llava": read_llava, "parquet": read_parquet, "hf": read_hf}


def load_stream(config: DataConfig, *, seed: int, quarantine: Path | None) -> TaskStream:
    """Read the stream that a configuration describes.

    Splits never cut a group, and limits draw by the hash of ``(seed, id)``: neither depends on the order of the files.
    Ids of foreign formats (llava, parquet, hf) get the task's name in front, as they repeat across datasets.

    Args:
        config: the ``data`` settings of a run.
        seed: of the limits and of ``test_fraction``.
        quarantine: file of the broken records, rewritten even when there are none.

    Raises:
        ConfigError: a task, a name or a root is missing or unknown.
        MissingDependencyError: the demo's packages, or ``datasets``, are not installed.
        DataError: a file cannot be read, too much of a dataset is broken, a group is in both splits, or a sample's
            instruction, which ``instruction_position`` moves, cannot be told from its input.
        EmptyTaskError, DuplicateIdError: see ``TaskStream``.
    """
    bin_ = Quarantine(quarantine, max_bad_fraction=config.max_bad_fraction)
    tasks = [_limited(task, config, seed) for task in _read_tasks(config, seed, bin_)]
    bin_.write()
    if config.instruction_position == "last":
        tasks = [instructions_last(task) for task in tasks]
    return TaskStream(tuple(tasks), quarantined=len(bin_))


def _read_tasks(config: DataConfig, seed: int, quarantine: Quarantine) -> Iterator[TaskDataset]:
    if config.source == "demo":
        yield from demo_tasks(config.order)
        return
    if config.root is None:
        raise ConfigError("is not set", item="data.root", remedy=f"source {config.source!r} reads from this folder")
    root = Path(config.root).expanduser()
    if not root.is_dir():
        raise ConfigError("no such folder", item=f"data.root = {root}", remedy="check the path")
    root = root.resolve()
    bundle = config.source == "bundle"
    specs = BUNDLE if bundle else _by_name(config.tasks)
    for spec in progress(choose(specs, config.order or (BUNDLE_ORDER if bundle else specs)), "reading", unit="task"):
        task = _read_task(spec, config, root, seed, quarantine)
        yield with_instructions(task) if bundle else task


def _read_task(spec: TaskSpec, config: DataConfig, root: Path, seed: int, quarantine: Quarantine) -> TaskDataset:
    if bool(spec.test) == (spec.test_fraction is not None):
        raise ConfigError(
            "needs either test files or test_fraction", item=f"data.tasks {spec.name}", remedy="set one of the two"
        )
    folder = _inside(root, spec.image_root, spec.name) if spec.image_root else root
    images = ImageFolder(folder, max_pixels=config.max_pixels, verify=config.verify_images)
    ids: set[str] = set()

    def read(patterns: Sequence[str]) -> Iterator[Sample]:
        for file in _files(root, patterns, spec.name):
            yield from _READERS[spec.format](
                file, quarantine=quarantine, images=images, task=spec.name, skill=spec.skill, ids=ids
            )

    prefix = "" if spec.format == "jsonl" else f"{spec.name}/"
    with quarantine.dataset(spec.name):
        train, test = (
            [
                replace(sample, id=prefix + sample.id, task=spec.name, skill=spec.skill or sample.skill)
                for sample in read(patterns)
            ]
            for patterns in (spec.train, spec.test)
        )
    if spec.test_fraction is not None:
        train, test = split_by_group(train, spec.test_fraction, seed)
    _check_groups(spec.name, train, test)
    skill = spec.skill or (train[0].skill if train else "")
    return TaskDataset(spec.name, skill, draw(train, spec.limit, seed), tuple(test), spec.metric, spec.max_new_tokens)


def _files(root: Path, patterns: Sequence[str], task: str) -> list[Path]:
    files: list[Path] = []
    for pattern in patterns:
        if Path(pattern).is_absolute():
            raise ConfigError(f"{pattern} is absolute", item=f"data.tasks {task}", remedy=_STAY)
        found = sorted(root.glob(pattern)) if any(sign in pattern for sign in "*?[") else [root / pattern]
        for file in found:
            _inside(root, file, task)
        if not found or not all(file.exists() for file in found):
            raise DataError(
                f"no file matches {pattern!r} under {root}",
                item=f"data.tasks {task}",
                remedy="check data.root and the name",
            )
        files += found
    return files


def _inside(root: Path, path: Path | str, task: str) -> Path:
    try:
        return resolve_under(root, path)
    except ImageError as error:
        raise ConfigError(f"{path}: {error.problem}", item=f"data.tasks {task}", remedy=_STAY) from error


_STAY = "paths are relative to data.root and may not leave it, not even by a symbolic link"


def _check_groups(task: str, train: Sequence[Sample], test: Sequence[Sample]) -> None:
    shared = {sample.group for sample in train if sample.group} & {sample.group for sample in test}
    if shared:
        raise DataError(
            f"{len(shared)} group(s) stand in both the training and the test files, the first {min(shared)!r}",
            item=f"data.tasks {task}",
            remedy="test answers would be trained on: list all files under train and set test_fraction",
        )


def _limited(task: TaskDataset, config: DataConfig, seed: int) -> TaskDataset:
    train, test = ([s for s in split if _is_short(s, config.max_characters)] for split in (task.train, task.test))
    share = max(1, round(config.train_fraction * len(train)))  # at least one sample of a task that has any
    limit = share if config.train_limit is None else min(share, config.train_limit)
    return replace(task, train=draw(train, limit, seed), test=draw(test, config.test_limit, seed))


def _is_short(sample: Sample, limit: int | None) -> bool:
    return limit is None or sum(len(message.text) for message in sample.messages) + len(sample.answer) <= limit


def _by_name(specs: Sequence[TaskSpec]) -> dict[str, TaskSpec]:
    if not specs:
        raise ConfigError("is empty", item="data.tasks", remedy="list the tasks of the stream")
    counts = Counter(spec.name for spec in specs)
    wrong = [name for name, count in counts.items() if count > 1 or not name]
    if wrong:
        raise ConfigError(f"the name {wrong[0]!r} is empty or stands twice", item="data.tasks", remedy="rename it")
    return {spec.name: spec for spec in specs}
