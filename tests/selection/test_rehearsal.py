"""Rehearsal mixes: all that arrives, exact numbers of older samples, draws by id alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy import stats

from adaptinf.config import RunConfig, SelectionConfig, from_dict
from adaptinf.errors import BudgetError, ConfigError
from adaptinf.selection import Pool, Selection, make_selector
from adaptinf.tuning import make_strategy

SIZES = {"big": 150, "mid": 50, "tiny": 3, "now": 20}


def make_pool() -> Pool:
    """Three earlier tasks and the arriving one, in an order of no meaning."""
    ids = [f"{task}{i:03d}" for task, size in SIZES.items() for i in range(size)]
    ids = [ids[i] for i in np.random.default_rng(0).permutation(len(ids))]
    return Pool(ids, [id[:-3] for id in ids], np.array([id.startswith("now") for id in ids]))


def draw(name: str, amount: float | int, seed: int = 0, pool: Pool | None = None) -> Selection:
    pool = pool or make_pool()
    return make_selector(name, SelectionConfig(rehearsal=amount)).select(pool, len(pool), seed)


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        (0.01, {"big": 2, "mid": 1, "tiny": 1}),  # 1.5 is rounded up, a share is never less than one sample
        (0.5, {"big": 75, "mid": 25, "tiny": 2}),
        (10, {"big": 10, "mid": 10, "tiny": 3}),  # a task that has fewer gives all
        (1.0, {"big": 150, "mid": 50, "tiny": 3}),
    ],
)
def test_each_earlier_task_gives_its_part(amount: float | int, expected: dict[str, int]) -> None:
    pool, made = make_pool(), draw("rehearsal", amount)
    assert Counter(np.array(pool.tasks)[made.selected].tolist()) == {**expected, "now": 20}
    assert made.summary["rehearsed"] == expected
    assert made.summary["n_selected"] == made.selected.sum() == 20 + sum(expected.values())


@pytest.mark.parametrize(("amount", "older"), [(0.01, 2), (30, 30), (1000, 203), (1, 1)])
def test_all_older_samples_together_give_theirs(amount: float | int, older: int) -> None:
    pool, made = make_pool(), draw("instructalign", amount)
    assert made.selected[pool.is_new].all() and made.selected[~pool.is_new].sum() == older
    assert made.summary["rehearsed"] == {"older": older} and made.summary["selector"] == "instructalign"


@pytest.mark.parametrize("name", ["rehearsal", "instructalign"])
def test_draws_are_uniform_by_seed_and_by_id(name: str) -> None:
    pool = make_pool()
    drawn = np.sum([draw(name, 20, seed).selected for seed in range(400)], axis=0)
    for rows in [np.array(pool.tasks) == task for task in ("big", "mid")] if name == "rehearsal" else [~pool.is_new]:
        assert stats.chisquare(drawn[rows]).pvalue > 1e-4
    order = np.random.default_rng(1).permutation(len(pool))
    assert (draw(name, 20, 3, pool.take(order)).selected == draw(name, 20, 3).selected[order]).all()
    reasons = {(new, taken): why for new, taken, why in zip(pool.is_new, *_decided(name), strict=True)}
    assert reasons == {(True, True): "new", (False, True): "drawn for rehearsal", (False, False): "not drawn"}


def _decided(name: str) -> tuple[np.ndarray, list[str]]:
    made = draw(name, 20)
    return made.selected, made.reason


@pytest.mark.parametrize("name", ["rehearsal", "instructalign"])
def test_the_first_step_has_nothing_to_rehearse_and_a_pool_of_old_samples_nothing_to_learn(name: str) -> None:
    pool = make_pool()
    first = pool.take(np.flatnonzero(pool.is_new))
    assert draw(name, 5, pool=first).selected.all()
    with pytest.raises(BudgetError, match="no sample of the pool is new"):
        draw(name, 5, pool=pool.take(np.flatnonzero(~pool.is_new)))
    with pytest.raises(BudgetError, match="at least one sample, got -1"):
        draw(name, -1)
    with pytest.raises(BudgetError, match="224 samples were asked of a pool of 223"):
        make_selector(name).select(pool, 224, 0)


def test_the_settings_of_a_run_reach_it_and_a_budget_is_not_asked() -> None:
    raw = {"strategy": "rehearsal", "budget": 7, "selection": {"rehearsal": 4}}
    strategy = make_strategy(from_dict(RunConfig, raw))
    assert strategy.budget(7, 300, 223) == 223 and strategy.trains_at(1, 4)
    made = strategy.selector.select(make_pool(), 223, 0)
    assert made.summary["rehearsed"] == {"big": 4, "mid": 4, "tiny": 3}
    with pytest.raises(ConfigError, match=r"selection\.rehearsal: a share must be <= 1"):
        from_dict(RunConfig, {"selection": {"rehearsal": 2.5}})
    with pytest.raises(ConfigError, match=r"selection\.rehearsal: must be > 0"):
        from_dict(RunConfig, {"selection": {"rehearsal": 0}})


@pytest.mark.parametrize("name", ["sequential", "multitask", "rehearsal", "instructalign"])
@pytest.mark.parametrize("key", ["new_share", "text_share"])
def test_a_share_of_a_budget_that_is_not_asked_is_an_error(name: str, key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}: has no effect on {name}"):
        make_strategy(from_dict(RunConfig, {"strategy": name, "selection": {key: 0.5}}))
