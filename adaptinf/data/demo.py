"""A stream of seven small tasks made from nothing but pip packages: real pictures, real names in many languages.

Pictures come from easy-vqa and from scikit-learn's handwritten digits, names from pycountry (the ISO registers of
countries, places, currencies, languages and scripts, with their translations). Whatever is asked in a test is of items
that no training sample shows, so a good score means a learnt skill and not a memorised fact.
"""

from __future__ import annotations

import functools
import gettext
import importlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from adaptinf.data.images import encode_png
from adaptinf.data.names import choose
from adaptinf.data.sample import Image, Sample
from adaptinf.data.stream import TaskDataset, draw, unit_hash
from adaptinf.errors import MissingDependencyError

SEED = 0
TEST_SHARE = 0.15
N_TRAIN, N_TEST = 1000, 150
SIDE = 64
"""Pixels of a digit's picture; the source has 8."""

_LANGUAGES = {
    "ar": "Arabic", "de": "German", "el": "Greek", "es": "Spanish", "fi": "Finnish",
    "fr": "French", "ja": "Japanese", "pl": "Polish", "ru": "Russian", "tr": "Turkish",
}  # fmt: skip
_PLACES = ("CZ", "EE", "ES", "FR", "IT", "JP", "LT", "RU", "SI", "TH", "TR", "VN")
_BOX_SIDE, _BOX_OFFSETS = 24, (0, 13, 27, 40)


def demo_tasks(names: Sequence[str] = ()) -> list[TaskDataset]:
    """The demo's tasks; all in their usual order, or the named ones.

    Raises:
        MissingDependencyError: easy-vqa, scikit-learn or pycountry is not installed.
        ConfigError: a name is unknown.
    """
    return [build() for build in choose(_BUILDERS, names or _BUILDERS)]


def _shapes_vqa() -> TaskDataset:
    """One open question and one yes/no question (either answer as likely) on each of easy-vqa's pictures."""
    easy_vqa = _require("easy_vqa", "easy-vqa")
    splits = {}
    for split, limit in (("train", N_TRAIN), ("test", N_TEST)):
        asked: dict[int, list[tuple[str, str]]] = defaultdict(list)
        for question, answer, picture in zip(*getattr(easy_vqa, f"get_{split}_questions")(), strict=True):
            asked[picture].append((question, answer))
        paths = getattr(easy_vqa, f"get_{split}_image_paths")()
        splits[split] = draw(
            [
                Sample.from_instruction(
                    f"shapes_vqa-{split}-{picture}-{kind}",
                    question.capitalize(),
                    answer,
                    images=[Image(path=Path(paths[picture]))],
                    task="shapes_vqa",
                    skill="vqa-attributes",
                    group=f"easy-vqa:{split}:{picture}",
                )
                for picture in sorted(asked)
                for kind, (question, answer) in _two_questions(asked[picture], f"{split} {picture}")
            ],
            limit,
            SEED,
        )
    return TaskDataset("shapes_vqa", "vqa-attributes", splits["train"], splits["test"], max_new_tokens=8)


def _two_questions(asked: Iterable[tuple[str, str]], picture: str) -> Iterator[tuple[str, tuple[str, str]]]:
    wanted = "yes" if unit_hash(SEED, "easy-vqa answer", picture) < 0.5 else "no"
    ordered = sorted(asked, key=lambda pair: unit_hash(SEED, "easy-vqa question", f"{picture} {pair[0]}"))
    for kind, fits in (("open", lambda a: a not in ("yes", "no")), ("closed", lambda a: a == wanted)):
        yield from ((kind, pair) for pair in [pair for pair in ordered if fits(pair[1])][:1])


def _country_language() -> TaskDataset:
    """A country's name in one of ten languages; test countries appear in no training sample, in any language."""
    pycountry = _require("pycountry", "pycountry")
    names: list[tuple[str, str, str]] = []
    for code in _LANGUAGES:
        translate = gettext.translation("iso3166-1", pycountry.LOCALES_DIR, [code]).gettext
        names += [(country.alpha_2, code, translate(country.name)) for country in pycountry.countries]
    english = {country.name for country in pycountry.countries}
    uses = Counter(name for _, _, name in names)
    samples = [
        Sample.from_instruction(
            f"country_language-{country}-{code}",
            f'In which language is the country name "{name}"?',
            _LANGUAGES[code],
            task="country_language",
            skill="multilingual",
            group=f"country:{country}",
        )
        for country, code, name in names
        if uses[name] == 1 and name not in english
    ]
    return _task("country_language", "multilingual", samples)


def _digit_reading() -> TaskDataset:
    """One handwritten digit."""
    samples = [
        Sample.from_instruction(
            f"digit_reading-{index}",
            "Which digit is written here?",
            str(label),
            images=[_picture(index)],
            task="digit_reading",
            skill="recognition",
            group=_digit(index),
        )
        for index, (_, label) in enumerate(_digits())
    ]
    return _task("digit_reading", "recognition", samples)


def _place_country() -> TaskDataset:
    """Provinces, regions and towns of twelve countries, told by their spelling."""
    pycountry = _require("pycountry", "pycountry")
    homes: dict[str, set[str]] = defaultdict(set)
    for place in pycountry.subdivisions:
        homes[place.name].add(place.country_code)
    country_names = {code: pycountry.countries.get(alpha_2=code).name for code in _PLACES}
    samples = [
        Sample.from_instruction(
            f"place_country-{name}",
            f'In which country is "{name}"?',
            country_names[next(iter(codes))],
            task="place_country",
            skill="geography",
            group=f"place:{name}",
        )
        for name, codes in sorted(homes.items())
        if len(codes) == 1 and codes <= country_names.keys()
    ]
    return _task("place_country", "geography", samples)


def _digit_compare() -> TaskDataset:
    """Two handwritten digits: whether they are the same, which is larger, what the second one is."""
    digits = _digits()
    samples = []
    for held_out in (False, True):
        side = [index for index in range(len(digits)) if _held_out(_digit(index)) == held_out]
        for first in side:
            kind = ("same", "larger", "second")[int(3 * unit_hash(SEED, "compare kind", str(first)))]
            alike = kind == "same" and unit_hash(SEED, "compare alike", str(first)) < 0.5
            partners = [i for i in side if i != first and (digits[i][1] == digits[first][1]) == alike]
            second = partners[int(len(partners) * unit_hash(SEED, "compare partner", str(first)))]
            a, b = digits[first][1], digits[second][1]
            question, answer = {
                "same": ("Do the two pictures show the same digit?", "yes" if a == b else "no"),
                "larger": (
                    "Which picture shows the larger digit, the first or the second?",
                    "first" if a > b else "second",
                ),
                "second": ("Which digit does the second picture show?", str(b)),
            }[kind]
            samples.append(
                Sample.from_instruction(
                    f"digit_compare-{first}-{second}",
                    question,
                    answer,
                    images=[_picture(first), _picture(second)],
                    task="digit_compare",
                    skill="multi-image",
                    group=f"digits:{first}+{second}",
                    meta={"digits": [first, second]},
                )
            )
    return _task("digit_compare", "multi-image", samples, item=lambda sample: _digit(sample.meta["digits"][0]))


def _name_kind() -> TaskDataset:
    """Whether a name is that of a country, a currency, a language or a script."""
    pycountry = _require("pycountry", "pycountry")
    living = [language.name for language in pycountry.languages if language.type == "L" and language.scope == "I"]
    registers = {
        "country": [country.name for country in pycountry.countries],
        "currency": [currency.name for currency in pycountry.currencies],
        "language": sorted(living, key=lambda name: unit_hash(SEED, "language", name))[:250],
        "script": [script.name for script in pycountry.scripts],
    }
    uses = Counter(name for names in registers.values() for name in set(names))
    codes = {country.name: country.alpha_2 for country in pycountry.countries}
    samples = [
        Sample.from_instruction(
            f"name_kind-{name}",
            f'Is "{name}" a country, a currency, a language or a script?',
            kind,
            task="name_kind",
            skill="text-classification",
            group=f"country:{codes[name]}" if kind == "country" else f"name:{name}",
        )
        for kind, names in registers.items()
        for name in sorted(set(names))
        if uses[name] == 1
    ]
    return _task("name_kind", "text-classification", samples)


def _digit_grounding() -> TaskDataset:
    """A handwritten digit somewhere on a dark canvas."""
    samples = []
    for index, (pixels, _) in enumerate(_digits()):
        x, y = (_BOX_OFFSETS[int(len(_BOX_OFFSETS) * unit_hash(SEED, axis, str(index)))] for axis in "xy")
        canvas = PIL.Image.new("L", (SIDE, SIDE))
        canvas.paste(_enlarged(pixels, _BOX_SIDE), (x, y))
        box = ", ".join(f"{value / SIDE:.2f}" for value in (x, y, x + _BOX_SIDE, y + _BOX_SIDE))
        samples.append(
            Sample.from_instruction(
                f"digit_grounding-{index}",
                "Where is the digit? Give its box as [x1, y1, x2, y2], each coordinate a fraction of the image size.",
                f"[{box}]",
                images=[Image(data=encode_png(canvas))],
                task="digit_grounding",
                skill="grounding",
                group=_digit(index),
            )
        )
    return _task("digit_grounding", "grounding", samples, metric="iou@0.5", max_new_tokens=40)


_BUILDERS: dict[str, Callable[[], TaskDataset]] = {
    "shapes_vqa": _shapes_vqa,
    "country_language": _country_language,
    "digit_reading": _digit_reading,
    "place_country": _place_country,
    "digit_compare": _digit_compare,
    "name_kind": _name_kind,
    "digit_grounding": _digit_grounding,
}


def _task(
    name: str,
    skill: str,
    samples: Iterable[Sample],
    *,
    item: Callable[[Sample], str] = lambda sample: sample.group,
    metric: str = "exact_match",
    max_new_tokens: int = 12,
) -> TaskDataset:
    """``item`` is what decides on which side of the split a sample falls, the same in every task."""
    parts: tuple[list[Sample], list[Sample]] = ([], [])
    for sample in samples:
        parts[_held_out(item(sample))].append(sample)
    train, test = (draw(part, limit, SEED) for part, limit in zip(parts, (N_TRAIN, N_TEST), strict=True))
    return TaskDataset(name, skill, train, test, metric, max_new_tokens)


def _held_out(group: str) -> bool:
    return unit_hash(SEED, "demo test", group) < TEST_SHARE


@functools.cache
def _digits() -> list[tuple[np.ndarray, int]]:
    """(8 x 8 grey values from 0 to 16, label) of 1797 digits by 43 writers."""
    data: Any = _require("sklearn.datasets", "scikit-learn").load_digits()
    return [(pixels, int(label)) for pixels, label in zip(data.images, data.target, strict=True)]


def _digit(index: int) -> str:
    return f"digit:{index}"


@functools.cache
def _picture(index: int) -> Image:
    return Image(data=encode_png(_enlarged(_digits()[index][0], SIDE)))


def _enlarged(pixels: np.ndarray, side: int) -> PIL.Image.Image:
    grey = PIL.Image.fromarray((pixels * (255 / 16)).round().astype(np.uint8))
    return grey.resize((side, side), PIL.Image.Resampling.BICUBIC)


def _require(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"the demo's tasks need the package {package}", item=module, remedy="pip install 'adaptinf[demo]'"
        ) from error
