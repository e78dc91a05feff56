"""The demo's stream: real, deterministic, and honest between training and test."""

from __future__ import annotations

import importlib
import re
from collections import Counter

import numpy as np
import pytest

from adaptinf.config import DataConfig
from adaptinf.data import demo, load_image, load_stream, split_pretraining
from adaptinf.errors import MissingDependencyError


@pytest.fixture(scope="module")
def stream():
    for package in ("easy_vqa", "sklearn", "pycountry"):
        pytest.importorskip(package)
    return load_stream(DataConfig(), seed=0, quarantine=None)


def test_the_stream_has_the_variety_that_was_promised(stream):
    assert len(stream) >= 6
    assert len({task.skill for task in stream}) >= 5
    pictures = {task.name: {len(one.images) for one in task.train} for task in stream}
    assert {0} in pictures.values()
    assert {2} in pictures.values()
    assert all(600 <= len(task.train) <= 1500 and 100 <= len(task.test) <= 200 for task in stream)
    assert any(not one.prompt.isascii() for one in stream.reordered(["country_language"])[0].train)


def test_no_item_is_in_training_and_test(stream):
    train = {one.group for task in stream for one in task.train}
    test = {one.group for task in stream for one in task.test}
    assert all(train)
    assert train.isdisjoint(test)
    shown = {image.sha256 for task in stream for one in task.train for image in one.images}
    for task in stream:
        if task.name != "shapes_vqa":  # two drawings may be equal by chance; the package's own split is kept
            assert shown.isdisjoint(image.sha256 for one in task.test for image in one.images)


def test_answers_and_pictures(stream):
    seen = {}
    for task in stream:
        for one in (*task.train, *task.test):
            assert one.answer == one.answer.strip() != ""
            assert len(one.answer) <= 30
            for image in one.images:
                seen[image.sha256] = image
    for image in list(seen.values())[::7]:
        picture = load_image(image)
        assert picture.size == (64, 64)
        assert np.asarray(picture).std() > 0


@pytest.mark.parametrize("name", ["country_language", "digit_reading", "place_country", "digit_compare", "name_kind"])
def test_test_answers_are_known_from_training_and_no_answer_dominates(stream, name):
    (task,) = stream.reordered([name])
    answers = Counter(one.answer for one in task.train)
    assert {one.answer for one in task.test} <= answers.keys()
    assert max(answers.values()) < 0.4 * len(task.train)


def test_yes_and_no_are_balanced(stream):
    for name in ("shapes_vqa", "digit_compare"):
        (task,) = stream.reordered([name])
        answers = Counter(one.answer for one in task.train)
        assert 0.4 < answers["yes"] / (answers["yes"] + answers["no"]) < 0.6


def test_boxes_hold_the_digit(stream):
    (task,) = stream.reordered(["digit_grounding"])
    for one in task.test[:40]:
        x1, y1, x2, y2 = (round(64 * float(number)) for number in re.findall(r"[\d.]+", one.answer))
        pixels = np.asarray(load_image(one.images[0]).convert("L"))
        outside = pixels.copy()
        outside[y1:y2, x1:x2] = 0
        assert pixels.max() > 200
        assert outside.max() == 0


def test_digits_are_what_their_label_says(stream):
    digits = importlib.import_module("sklearn.datasets").load_digits()
    by_id = {f"digit_reading-{i}": i for i in range(len(digits.target))}
    (task,) = stream.reordered(["digit_reading"])
    for one in task.test:
        index = by_id[one.id]
        assert one.answer == str(digits.target[index])
        small = load_image(one.images[0]).convert("L").resize((8, 8), 4)
        assert np.corrcoef(np.ravel(small), digits.images[index].ravel())[0, 1] > 0.95


def test_comparisons_are_right(stream):
    target = importlib.import_module("sklearn.datasets").load_digits().target
    (task,) = stream.reordered(["digit_compare"])
    for one in (*task.train, *task.test):
        first, second = (int(target[index]) for index in one.meta["digits"])
        if "same digit" in one.prompt:
            assert one.answer == ("yes" if first == second else "no")
        elif "larger" in one.prompt:
            assert first != second
            assert one.answer == ("first" if first > second else "second")
        else:
            assert one.answer == str(second)


def test_the_same_again_whatever_the_seed(stream):
    some = ["shapes_vqa", "country_language", "digit_compare", "name_kind"]
    again = load_stream(DataConfig(order=some), seed=1, quarantine=None)
    assert again.fingerprint() == stream.reordered(some).fingerprint()


def test_limits_and_order_hold_for_the_demo(stream):
    config = DataConfig(order=["name_kind", "digit_reading"], train_limit=20, test_limit=5)
    small = load_stream(config, seed=0, quarantine=None)
    assert [(task.name, len(task.train), len(task.test)) for task in small] == [
        ("name_kind", 20, 5),
        ("digit_reading", 20, 5),
    ]
    ids = {one.id for task in stream for one in task.train}
    assert all(one.id in ids for task in small for one in task.train)


def test_pretraining_slice_of_the_demo(stream):
    pretraining, rest = split_pretraining(stream, 0.3, seed=0)
    total = sum(len(task.train) for task in stream)
    assert abs(len(pretraining) / total - 0.3) < 0.03
    kept = {one.group for task in rest for one in (*task.train, *task.test)}
    assert kept.isdisjoint(one.group for one in pretraining)


@pytest.mark.parametrize("package", ["easy_vqa", "sklearn", "pycountry"])
def test_an_absent_package_is_named_with_the_remedy(monkeypatch, package):
    demo._digits.cache_clear()
    real = importlib.import_module

    def absent(name, *rest):
        if name.split(".")[0] == package:
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(MissingDependencyError, match=r"(?s)need the package.*pip install 'adaptinf\[demo\]'"):
        load_stream(DataConfig(), seed=0, quarantine=None)
