"""Datasets in order of arrival: their identity, and splits and limits that hashes decide."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from adaptinf.data.names import choose
from adaptinf.data.records import content_digest
from adaptinf.data.sample import Sample
from adaptinf.errors import DataError, DuplicateIdError, EmptyTaskError


@dataclass(frozen=True)
class TaskDataset:
    """One dataset of the stream; ``metric`` is a name of ``adaptinf.evaluation``."""

    name: str
    skill: str
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    metric: str = "exact_match"
    max_new_tokens: int = 32


@dataclass(frozen=True)
class TaskStream:
    """Datasets in order of arrival. ``quarantined`` counts the broken records left out.

    Raises:
        DataError: two tasks share a name.
        DuplicateIdError: two samples share an id.
        EmptyTaskError: a task has no training or no test sample.
    """

    tasks: tuple[TaskDataset, ...]
    quarantined: int = 0

    def __post_init__(self) -> None:
        taken: dict[str, str] = {}
        for task in self.tasks:
            for split, samples in (("training", task.train), ("test", task.test)):
                if not samples:
                    raise EmptyTaskError(
                        f"no usable {split} sample", item=task.name, remedy="check its files, or leave the task out"
                    )
                for sample in samples:
                    if sample.id in taken:
                        raise DuplicateIdError(
                            f"the id stands in task {taken[sample.id]} and in task {task.name}",
                            item=sample.id,
                            remedy="give every record of the stream its own id",
                        )
                    taken[sample.id] = task.name
        if len({task.name for task in self.tasks}) < len(self.tasks):
            raise DataError("two tasks share a name", item=", ".join(self.names), remedy="rename one of them")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(task.name for task in self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)

    def __iter__(self) -> Iterator[TaskDataset]:
        return iter(self.tasks)

    def __getitem__(self, index: int) -> TaskDataset:
        return self.tasks[index]

    def fingerprint(self) -> str:
        """sha256 (hex) over the tasks' names and, in order, every sample's id, split, texts, answer and picture bytes.

        Where the files lie and what they are called does not enter.
        """
        digest = hashlib.sha256()
        for task in self.tasks:
            for split, samples in (("train", task.train), ("test", task.test)):
                for sample in samples:
                    row = [task.name, split, sample.id, content_digest(sample)]
                    digest.update(json.dumps(row).encode() + b"\n")
        return digest.hexdigest()

    def reordered(self, names: Iterable[str]) -> TaskStream:
        """The named tasks, in that order; the others are left out.

        Raises:
            ConfigError: a name is unknown (the nearest one is given) or stands twice.
        """
        return replace(self, tasks=tuple(choose({task.name: task for task in self.tasks}, names)))


def split_by_group(samples: Sequence[Sample], fraction: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """(rest, held out): the held-out part is ``fraction`` of the groups, rounded, but at least one on either side.

    Groups are drawn by hash. A sample without a group is grouped by its pictures, else alone.

    Raises:
        EmptyTaskError: fewer than two groups.
    """
    groups = sorted({group_of(sample) for sample in samples}, key=lambda group: unit_hash(seed, "test", group))
    if len(groups) < 2:
        raise EmptyTaskError(
            f"{len(groups)} group(s) of samples cannot be split", item="test_fraction", remedy="give test files instead"
        )
    held = set(groups[: min(max(round(fraction * len(groups)), 1), len(groups) - 1)])
    parts: tuple[list[Sample], list[Sample]] = ([], [])
    for sample in samples:
        parts[group_of(sample) in held].append(sample)
    return parts


def split_pretraining(stream: TaskStream, fraction: float, seed: int) -> tuple[list[Sample], TaskStream]:
    """Take about ``fraction`` of the training groups out of the stream, to pre-train a model on them.

    A group falls on the same side in every task, and groups of any test split are never taken, so that the model has
    seen no sample that the stream trains or tests on, nor a near-duplicate of one.

    Raises:
        EmptyTaskError: a task would have no training sample left.
    """
    tested = {group_of(sample) for task in stream for sample in task.test}
    pretraining, tasks = [], []
    for task in stream:
        parts: tuple[list[Sample], list[Sample]] = ([], [])
        for sample in task.train:
            group = group_of(sample)
            parts[group not in tested and unit_hash(seed, "pretraining", group) < fraction].append(sample)
        if not parts[0]:
            raise EmptyTaskError(
                f"pre-training on {fraction:.0%} of the groups would take every training sample",
                item=task.name,
                remedy="lower model.pretrain.fraction, or give the task more groups",
            )
        tasks.append(replace(task, train=tuple(parts[0])))
        pretraining += parts[1]
    return pretraining, replace(stream, tasks=tuple(tasks))


def apart(others: TaskStream, stream: TaskStream) -> list[Sample]:
    """The training samples of ``others`` whose group has no sample in ``stream``, of training or test."""
    taken = {group_of(sample) for task in stream for sample in (*task.train, *task.test)}
    return [sample for task in others for sample in task.train if group_of(sample) not in taken]


def draw(samples: Sequence[Sample], limit: int | None, seed: int) -> tuple[Sample, ...]:
    """At most ``limit`` samples, those with the smallest hash of ``(seed, id)``, in their own order."""
    if limit is None or limit >= len(samples):
        return tuple(samples)
    chosen = set(sorted((sample.id for sample in samples), key=lambda one: unit_hash(seed, "limit", one))[:limit])
    return tuple(sample for sample in samples if sample.id in chosen)


def group_of(sample: Sample) -> str:
    """The group that the data name, else its pictures, else the sample alone: what splits never cut."""
    if sample.group:
        return sample.group
    return " ".join(image.sha256 for image in sample.images) or f"{sample.task} {sample.id}"


def unit_hash(seed: int, purpose: str, key: str) -> float:
    """A number in [0, 1), drawn from sha256, that depends on nothing but its arguments."""
    digest = hashlib.sha256(f"{seed}\0{purpose}\0{key}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
