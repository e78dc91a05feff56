"""Agreement with known groups: by hand on small cases, and on the bundle's vectors."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality import groups


def test_agreement_by_hand() -> None:
    truth, labels = np.array(list("aaabbc")), np.array([0, 0, 1, 1, 1, 2])
    found = groups.agreement(labels, truth)
    assert found.purity == pytest.approx(5 / 6)
    # the adjusted Rand index by counting pairs, the information by its definition
    together = [[one[i] == one[j] for i, j in itertools.combinations(range(6), 2)] for one in (labels, truth)]
    both, left, right = sum(map(min, zip(*together, strict=True))), sum(together[0]), sum(together[1])
    chance = left * right / 15
    assert found.rand == pytest.approx((both - chance) / ((left + right) / 2 - chance))

    def entropy(*counts: int) -> float:
        return -sum(count / 6 * np.log(count / 6) for count in counts)

    mutual = entropy(3, 2, 1) + entropy(2, 3, 1) - entropy(2, 1, 2, 1)
    assert found.information == pytest.approx(mutual / entropy(3, 2, 1))
    assert groups.agreement(truth, truth) == pytest.approx((1, 1, 1))


def test_removed_rows_by_hand() -> None:
    group = np.array(list("aaabbc"))
    kept = np.array([True, False, False, True, False, False])
    found = groups.removed(kept, np.array([-1, 0, 0, -1, 0, 3]), group)
    assert found == (4, 2 / 4, 2 / 3)  # three of the six could go
    assert groups.removed(np.ones(6, bool), np.full(6, -1), group) == (0, 0, 0)


def test_pairs_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "BLOCK", 2)
    angle = np.deg2rad([0, 1, 2, 90, 91])
    rows = 3 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    found = groups.pairs(rows, 1 - np.cos(np.deg2rad(1.5)), np.array(list("aabcc")))  # 0-1, 1-2, 3-4
    assert found == (3, 2 / 3, 1.0)


def test_the_tables_of_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of one direction each: found without a fault."""
    monkeypatch.setattr(groups, "COUNTS", (12,))
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(12), 20)
    rows = np.eye(12, 16)[group] + 0.01 * rng.normal(size=(240, 16))
    (tmp_path / "vectors").mkdir()
    np.save(tmp_path / "vectors/some_f16.npy", rows.astype(np.float16))
    with gzip.open(tmp_path / "vectors/some_rows.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"group": f"g{g}", "dataset": f"d{g % 3}"}) + "\n" for g in group)
    ((name, read, known),) = groups.read(tmp_path)
    lines = list(groups.report(name, read, known, seed=0))
    assert lines[0] == "some: 240 rows, 16 columns, 3 datasets, 12 groups"
    assert next(line for line in lines if line.startswith("| 12 |")).endswith("| 1.000 / 1.000 / 1.000 |")
    of = dict(zip(("pairs", "greedy", "reference", "components"), lines[-2].split("|")[2:6], strict=True))
    assert of["pairs"].strip() == "2,280 / 1.000 / 1.000"
    assert {of[name].strip() for name in groups.RULES} == {"228 / 1.000 / 1.000"}


@pytest.mark.slow
def test_real_near_duplicates(shared_data: Path) -> None:
    """Prompts of one passage embedded by MiniLM: most of what is removed at 0.05 is of one group."""
    _, rows, known = next(groups.read(shared_data))
    group = np.array([row["group"] for row in known])
    decided = groups.dedup(rows, 0.05, clusters=1)
    found = groups.removed(decided.kept, decided.duplicate_of, group)
    assert found.precision > 0.88
    assert found.recall > 0.52
    some = groups.cluster(rows[::8], 20, seed=0)
    assert groups.agreement(some.labels, np.array([row["dataset"] for row in known])[::8]).purity > 0.5
