"""Baselines, the registry and the entry points."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import EntryPoint

import numpy as np
import pytest
from scipy import stats

from adaptinf.config import SelectionConfig
from adaptinf.errors import BudgetError, ConfigError, DataError
from adaptinf.selection import (
    Needs,
    Pool,
    Selection,
    Selector,
    make_selector,
    register_selector,
    selector,
    selector_names,
)


def make_pool(n: int = 40, new: int = 15) -> Pool:
    ids = [f"id{i:02d}" for i in np.random.default_rng(0).permutation(n)]
    return Pool(ids, ["t"] * n, np.arange(n) >= n - new)


class Shortest:
    """A third party's selector."""

    name = "shortest"

    def __init__(self, config: SelectionConfig | None = None) -> None:
        self.config = config

    def needs(self) -> Needs:
        return Needs(scores=("n_tokens",))

    def select(self, pool: Pool, budget: int, seed: int) -> Selection:
        return Selection.unscored(np.arange(len(pool)) < budget, ("long", "short"), {})


def test_random_replay_draws_the_budget_uniformly() -> None:
    pool, random = make_pool(), make_selector("random")
    drawn = [random.select(pool, 10, seed).selected for seed in range(400)]
    assert all(mask.sum() == 10 for mask in drawn)
    assert stats.chisquare(np.sum(drawn, axis=0)).pvalue > 1e-4
    assert random.needs() == Needs()


@pytest.mark.parametrize(("share", "budget", "for_new"), [(0.3, 10, 3), (0.5, 39, 15), (0.0, 30, 5), (1.0, 12, 12)])
def test_the_arriving_dataset_may_have_a_share_of_its_own(share: float, budget: int, for_new: int) -> None:
    """15 of 40 are new; a side that holds fewer than its part leaves the rest to the other."""
    pool = make_pool()
    made = make_selector("random", SelectionConfig(new_share=share)).select(pool, budget, 3)
    assert made.selected[pool.is_new].sum() == for_new and made.selected.sum() == budget
    for rows, part in ((pool.is_new, for_new), (~pool.is_new, budget - for_new)):
        if part:
            alone = make_selector("random").select(pool.take(np.flatnonzero(rows)), part, 3)
            assert (made.selected[rows] == alone.selected).all()
            assert np.array(made.reason)[rows].tolist() == alone.reason
        else:
            assert set(np.array(made.reason)[rows]) == {"left out: no budget for its side"}
    assert (made.summary["n_selected"], made.summary["new_share"]) == (budget, share)


@pytest.mark.parametrize(
    ("share", "budget", "texts"),
    [(0.875, 16, 14), (1.0, 20, 20), (0.5, 24, 12), (0.5, 30, 18), (0.0, 12, 0), (1.0, 35, 28), (0.0, 30, 18)],
)
def test_samples_without_pictures_may_have_a_share(share: float, budget: int, texts: int) -> None:
    """28 of 40 are text alone: where a modality runs out, the other fills the budget."""
    pool = make_pool()
    pool = replace(pool, scores={"n_images": np.tile([0.0, 0.0, 0.0, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0], 4)})
    text = pool.scores["n_images"] == 0
    made = make_selector("random", SelectionConfig(text_share=share)).select(pool, budget, 3)
    assert made.selected[text].sum() == texts and made.selected.sum() == budget
    assert (made.summary["n_selected"], made.summary["text_share"]) == (budget, share)
    assert set(made.summary["parts"]) == {
        side for side, part in (("text", texts), ("pictures", budget - texts)) if part
    }


def test_both_shares_hold_at_once() -> None:
    """Of 20 samples 12 are new; of these, and of the 8 others, three quarters are text."""
    pool = replace(make_pool(60, 30), scores={"n_images": np.arange(60) % 2.0})
    made = make_selector("random", SelectionConfig(new_share=0.6, text_share=0.75)).select(pool, 20, 0)
    text = pool.scores["n_images"] == 0
    counts = [made.selected[pool.is_new & text].sum(), made.selected[pool.is_new & ~text].sum()]
    counts += [made.selected[~pool.is_new & text].sum(), made.selected[~pool.is_new & ~text].sum()]
    assert counts == [9, 3, 6, 2]
    with pytest.raises(DataError, match="has no column 'n_images'"):
        make_selector("random", SelectionConfig(text_share=0.5)).select(make_pool(), 10, 0)


def test_clusters_of_the_two_sides_have_numbers_of_their_own() -> None:
    rng = np.random.default_rng(0)
    ids, new = [f"id{i:02d}" for i in range(60)], np.arange(60) >= 40
    pool = Pool(ids, ["t"] * 60, new, {"el2n": rng.random(60)}, hidden=rng.normal(size=(60, 4)).astype(np.float32))
    config = SelectionConfig(n_clusters=3, new_share=0.4)
    selector = make_selector("dbp", config)
    assert selector.needs() == make_selector("dbp").needs() and selector.name == "dbp"
    made = selector.select(pool, 20, 0)
    assert set(made.cluster[new]) == {0, 1, 2} and set(made.cluster[~new]) == {3, 4, 5} and made.summary["k"] == 6
    assert made.summary["parts"]["old"]["k"] == 3


def test_histories_are_aligned_and_taken_along() -> None:
    pool = Pool(["a", "b", "c"], ["t"] * 3, np.zeros(3, bool), n_trained=np.array([5, 6, 7]))
    taken = pool.take(np.array([2, 0])).n_trained
    assert taken is not None and taken.tolist() == [7, 5]
    with pytest.raises(DataError, match="n_trained: has 2 rows for 3 ids"):
        Pool(["a", "b", "c"], ["t"] * 3, np.zeros(3, bool), n_trained=np.array([5, 6]))


def test_random_replay_is_keyed_by_id() -> None:
    pool = make_pool()
    mask = make_selector("random").select(pool, 10, 3).selected
    order = np.random.default_rng(1).permutation(len(pool))
    shuffled = Pool([pool.ids[i] for i in order], ["t"] * len(pool), pool.is_new[order])
    assert (make_selector("random").select(shuffled, 10, 3).selected == mask[order]).all()


def test_sequential_and_multitask() -> None:
    pool = make_pool()
    new = make_selector("new_only").select(pool, 10, 0)
    assert (new.selected == pool.is_new).all()
    assert set(new.reason) == {"old", "new"}
    everything = make_selector("full").select(pool, 10, 0)
    assert everything.selected.all()
    assert set(everything.reason) == {"whole pool"}
    assert (everything.cluster == -1).all()
    assert everything.summary["n_selected"] == 40
    with pytest.raises(BudgetError, match="no sample of the pool is new"):
        make_selector("new_only").select(make_pool(new=0), 1, 0)


@pytest.mark.parametrize("name", ["random", "new_only", "full"])
def test_baselines_check_the_budget(name: str) -> None:
    with pytest.raises(BudgetError, match="41 samples were asked"):
        make_selector(name).select(make_pool(), 41, 0)


def test_every_registered_selector_is_one() -> None:
    assert set(selector_names()) >= {"paper", "released", "lite", "random", "new_only", "full"}
    for name in ("paper", "released", "lite", "random", "new_only", "full"):
        made = make_selector(name)
        assert isinstance(made, Selector)
        assert made.name == name


def test_unknown_and_taken_names() -> None:
    with pytest.raises(ConfigError, match="did you mean 'random'"):
        make_selector("randon")
    with pytest.raises(ConfigError, match="exists"):
        register_selector("paper")(Shortest)


def test_registered_by_decorator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selector, "_FACTORIES", dict(selector._FACTORIES))
    register_selector("shortest")(Shortest)
    config = SelectionConfig(bins=7)
    made = make_selector("shortest", config)
    assert isinstance(made, Shortest)
    assert made.config is config


def test_found_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point(EntryPoint):
        def load(self) -> object:
            return {"shortest": Shortest, "broken": lambda _: object()}[self.name]

    points = [Point(name, f"elsewhere:{name}", selector.ENTRY_POINTS) for name in ("shortest", "broken")]
    monkeypatch.setattr(selector, "entry_points", lambda *, group: points if group == selector.ENTRY_POINTS else [])
    assert "shortest" in selector_names()
    assert isinstance(make_selector("shortest"), Shortest)
    with pytest.raises(ConfigError, match="no Selector"):
        make_selector("broken")


def test_pools_are_row_aligned() -> None:
    with pytest.raises(DataError, match="tasks: has 1 rows for 2 ids"):
        Pool(["a", "b"], ["t"], np.ones(2, bool))
    with pytest.raises(DataError, match="nll: has 3 rows"):
        Pool(["a", "b"], ["t", "t"], np.ones(2, bool), {"nll": np.zeros(3)})
    with pytest.raises(DataError, match="hidden: has shape"):
        Pool(["a", "b"], ["t", "t"], np.ones(2, bool), hidden=np.zeros(2))
