"""The requests of the study: SwitchCIT's five tasks in its order, requests of other tasks, and other wordings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from adaptinf.config import RunConfig, load_config
from adaptinf.data import Message, Sample, TaskStream, load_stream

MODEL = "models/stories260K"
TASKS = ("onestop_simplify", "emotion_dialogue", "question_generation", "esnli_explain", "headline_constraint")
"""simp, emdg, inq, exp, hgen."""
OTHERS = ("haiku", "gsm8k", "bbh", "p3_qa")
TRAIN, TEST, OUTSIDE, CHARACTERS = 200, 60, 30, 700


def configuration(data: Path, seed: int, *, tasks: tuple[str, ...] = TASKS, test: int = TEST, **more: Any) -> RunConfig:
    """A run over these tasks of the bundle; conversations of more than ``CHARACTERS`` are left out."""
    return load_config(
        {
            "seed": seed,
            "strategy": "switch",
            "data": {
                "source": "bundle",
                "root": str(data),
                "order": list(tasks),
                "train_limit": TRAIN,
                "test_limit": test,
                "max_characters": CHARACTERS,
            },
            "model": {"name": str(data / MODEL), "on_long": "drop"},
            "report": {"gallery": 0},
            **more,
        }
    )


def stream(data: Path, seed: int) -> TaskStream:
    return load_stream(configuration(data, seed).data, seed=seed, quarantine=None)


def outside(data: Path, seed: int) -> list[Sample]:
    """Requests of tasks that no adapter is for."""
    config = configuration(data, seed, tasks=OTHERS, test=OUTSIDE)
    return [sample for task in load_stream(config.data, seed=seed, quarantine=None) for sample in task.test]


def _behind(text: str) -> str:
    """The instruction, a prompt's first line, after what it is about (Post-Instruction, arXiv:2308.12097)."""
    first, _, rest = text.partition("\n")
    return f"{rest}\n{first}" if rest else text


def _alpaca(text: str) -> str:
    return f"Below is an instruction that describes a task. Write a response to it.\n\n### Instruction:\n{text}"


WORDINGS: Mapping[str, Callable[[str], str]] = {
    "as trained": lambda text: text,
    "instruction behind": _behind,
    "Alpaca's preamble": _alpaca,
    "lower case": str.lower,
}
"""The same requests in templates that the router has never seen."""


def reworded(sample: Sample, wording: Callable[[str], str]) -> Sample:
    """The last turn's text in another wording; the answer stays."""
    *earlier, last = sample.messages
    return replace(sample, messages=(*earlier, Message("user", (*last.images, wording(last.text)))))
