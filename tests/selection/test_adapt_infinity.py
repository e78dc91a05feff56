"""The whole choice of a step: clusters, scorers, budgets, samples, reasons and summary."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from adaptinf.config import SelectionConfig
from adaptinf.errors import (
    BudgetError,
    ClusterCountError,
    ConfigError,
    DataError,
    DuplicateIdError,
    NonFiniteError,
    NoUsableScorerError,
)
from adaptinf.selection import (
    AdaptInfinity,
    Pool,
    Selection,
    ccs_sample,
    choose_scorer,
    make_selector,
    released,
    select,
    water_fill,
)
from adaptinf.selection.adapt_infinity import _ranks


def make_table(n: int, *, groups: int = 3, seed: int = 0, text_only: float = 0.3) -> tuple[pa.Table, np.ndarray]:
    """Well separated groups of features; scores of different shapes; some samples without pictures."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, groups, n)
    features = (np.eye(groups, 16)[group] + 0.02 * rng.normal(size=(n, 16))).astype(np.float32)
    nll = rng.gamma(2.0, 0.3, n)
    n_images = (rng.random(n) >= text_only).astype(np.int64)
    return pa.table(
        {
            "id": [f"s{i:05d}" for i in rng.permutation(n)],
            "task": [f"task{g}" for g in group],
            "nll": nll,
            "mean_exp_nll": np.exp(nll) * rng.uniform(1, 1.5, n),
            "entropy": rng.uniform(0, 2, n),
            "entropy_all": rng.uniform(0, 3, n),
            "el2n": rng.beta(2, 3, n),
            "grad_norm": rng.lognormal(size=n),
            "nll_without_image": np.where(n_images > 0, nll + rng.normal(0.3, 0.4, n), np.nan),
            "n_images": n_images,
        }
    ), features


def replace(table: pa.Table, name: str, values: object) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values))


def by_id(table: pa.Table, selection: Selection) -> dict[str, tuple[object, ...]]:
    rows = zip(selection.selected, selection.cluster, selection.scorer, selection.reason, strict=True)
    return dict(zip(table["id"].to_pylist(), rows, strict=True))


def test_clusters_of_another_library() -> None:
    """The groups are plain, so FAISS finds the same ones, and all that follows is the same."""
    table, features = make_table(300)
    ours, theirs = (select(table, features, 90, n_clusters=3, seed=5, backend=name) for name in ("adaptinf", "faiss"))
    assert by_id(table, theirs) == by_id(table, ours)
    assert theirs.summary["backend"] == "faiss"


def test_the_pipeline_step_by_step() -> None:
    """Clusters are the groups; scorer, share and sample of each are those of the public functions on that cluster."""
    table, features = make_table(900)
    chosen = select(table, features, 300, n_clusters=3, seed=5)
    group = features.argmax(axis=1)
    sizes = sorted((int((group == g).sum()) for g in range(3)), reverse=True)
    assert chosen.summary["sizes"] == sizes
    assert chosen.summary["budgets"] == water_fill(sizes, 300)

    ids, nll = np.array(table["id"].to_pylist()), table["nll"].to_numpy()
    columns = {
        "perplexity": np.exp(nll),
        "el2n": table["el2n"].to_numpy(),
        "entropy": table["entropy"].to_numpy(),
        "image_grounding": np.exp(table["nll_without_image"].to_numpy() - nll),
    }
    for c in range(3):
        members = np.flatnonzero(chosen.cluster == c)
        assert len(set(group[members])) == 1
        members = members[np.argsort(ids[members])]
        choice = choose_scorer({name: values[members] for name, values in columns.items()})
        described = chosen.summary["clusters"][c]
        assert described["scorer"] == choice.name
        assert described["entropies"] == pytest.approx(choice.entropies)
        assert set(np.array(chosen.scorer)[members]) == {choice.name}
        np.testing.assert_array_equal(chosen.score[members], columns[choice.name][members])
        rng = np.random.default_rng([5, c])
        expected = members[ccs_sample(columns[choice.name][members], described["budget"], rng)]
        assert set(np.flatnonzero(chosen.selected & (chosen.cluster == c))) == set(expected)


def test_reasons_and_summary_agree_with_the_decision() -> None:
    table, features = make_table(600)
    chosen = select(table, features, 0.99, n_clusters=3)
    summary = json.loads(json.dumps(chosen.summary, allow_nan=False))
    assert summary["n_selected"] == chosen.selected.sum() == 594
    assert summary["k"] == 3
    assert [row["selected"] for row in summary["clusters"]] == summary["budgets"]
    for row in summary["clusters"]:
        members = chosen.cluster == row["cluster"]
        assert row["size"] == members.sum()
        ranked = sorted((bits for bits in row["entropies"].values() if bits is not None), reverse=True)
        assert row["margin"] == pytest.approx(ranked[0] - ranked[1])
    reasons = np.array(chosen.reason)
    assert all(r.startswith(("ccs bin", "tail fill", "undefined fill")) for r in reasons[chosen.selected])
    assert all(r.startswith("not drawn: ") for r in reasons[~chosen.selected])
    filled = np.char.startswith(reasons.astype(str), "tail fill")
    assert summary["counters"]["tail_fills"] == (filled & chosen.selected).sum() > 0
    bin_reason = next(r for r in chosen.reason if r.startswith("ccs bin"))
    assert "/50 of cluster " in bin_reason
    assert " by " in bin_reason


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_paper_is_exact(data: st.DataObject) -> None:
    """Any sizes, ties, constant columns, pools without pictures, every policy that keeps all samples."""
    n = data.draw(st.integers(1, 90))
    k = data.draw(st.integers(1, min(n, 8)))
    table, features = make_table(
        n, seed=data.draw(st.integers(0, 999)), text_only=data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    )
    for name in ("nll", "entropy"):
        shape = data.draw(st.sampled_from(["as is", "ties", "constant"]))
        values = table[name].to_numpy()
        table = replace(table, name, {"as is": values, "ties": np.round(values), "constant": np.full(n, 0.5)}[shape])
    budget = data.draw(st.integers(1, n))
    chosen = select(table, features, budget, n_clusters=k, seed=1)
    assert chosen.selected.sum() == budget == sum(chosen.summary["budgets"])


def test_presets_differ_as_they_should() -> None:
    """At one budget: paper gives exactly that many; released overshoots its bins, never touches tails, falls short."""
    table, features = make_table(3000)
    rng = np.random.default_rng(1)
    table = replace(table, "el2n", 0.01 * rng.lognormal(size=3000))
    table = replace(replace(table, "entropy", wide := rng.uniform(0, 5, 3000)), "entropy_all", wide)
    args = {"n_clusters": 3, "scorers": ["entropy", "el2n"]}
    small = {p: select(table, features, 30, preset=p, **args) for p in ("paper", "released", "lite")}
    assert small["paper"].selected.sum() == 30
    assert small["released"].selected.sum() > 4 * 30  # one of each bin of each cluster
    large = {p: select(table, features, 2900, preset=p, **args) for p in ("paper", "released")}
    assert large["paper"].selected.sum() == 2900
    assert large["released"].selected.sum() < 2750
    assert sum(large["released"].summary["capacities"]) <= 0.91 * 3000
    assert (small["lite"].selected == small["paper"].selected).all()
    assert set(small["paper"].scorer) == {"entropy"}  # evenly spread
    assert set(small["released"].scorer) == {"el2n"}  # of small sigma, whatever its shape


def test_released_pipeline_step_by_step() -> None:
    table, features = make_table(700)
    chosen = select(table, features, 200, preset="released", n_clusters=3, seed=4)
    without = table["nll_without_image"].to_numpy()
    ppl = table["mean_exp_nll"].to_numpy()
    columns = {
        "perplexity": np.log(ppl),
        "el2n": table["el2n"].to_numpy(),
        "entropy": table["entropy_all"].to_numpy(),
        "image_grounding": np.nan_to_num(np.exp(without) / ppl),
    }
    drawer, expected = random.Random(4), set()
    for c, share in enumerate(released.water_fill(chosen.summary["sizes"], 200)):
        members = np.flatnonzero(chosen.cluster == c)
        entropies = [released.histogram_entropy(columns[name][members]) for name in columns]
        name = list(columns)[int(np.argmax(entropies))]
        expected |= set(members[released.ccs_sample(columns[name][members], share, drawer).chosen])
        assert chosen.summary["clusters"][c]["scorer"] == name
    assert set(np.flatnonzero(chosen.selected)) == expected


def test_released_turns_its_division_by_zero_into_an_error() -> None:
    table, features = make_table(400)
    sizes = select(table, features, 10, n_clusters=3).summary["sizes"]
    assert len(set(sizes)) == 3  # else the rounding does not reach the last cluster
    with pytest.raises(BudgetError, match="rounded-up"):
        select(table, features, 400, preset="released", n_clusters=3)


def test_seed_decides_and_order_does_not() -> None:
    table, features = make_table(500)
    first = by_id(table, select(table, features, 100, n_clusters=4, seed=7))
    assert first == by_id(table, select(table, features, 100, n_clusters=4, seed=7))
    assert first != by_id(table, select(table, features, 100, n_clusters=4, seed=8))
    order = np.random.default_rng(0).permutation(500)
    shuffled = table.take(pa.array(order))
    assert first == by_id(shuffled, select(shuffled, features[order], 100, n_clusters=4, seed=7))


def test_scale_of_the_features_does_not_matter() -> None:
    table, features = make_table(300)
    scale = 10.0 ** np.random.default_rng(0).integers(-30, 30, (300, 1))
    scaled = select(table, features * scale, 60, n_clusters=3)
    assert by_id(table, scaled) == by_id(table, select(table, features, 60, n_clusters=3))


def test_text_only_pools_do_without_image_grounding() -> None:
    table, features = make_table(300, text_only=1.0)
    chosen = select(table, features, 100, n_clusters=3)
    assert chosen.selected.sum() == 100
    assert "image_grounding" not in chosen.scorer
    assert all(row["entropies"]["image_grounding"] is None for row in chosen.summary["clusters"])
    with pytest.raises(NoUsableScorerError, match="image_grounding"):
        select(table, features, 100, n_clusters=3, scorers=["image_grounding"])


def test_where_image_grounding_wins_the_others_are_drawn_last() -> None:
    table, features = make_table(400, groups=1, text_only=0.25)
    n_pictures = int(table["n_images"].to_numpy().sum())
    chosen = select(table, features, n_pictures, n_clusters=1, scorers=["image_grounding"])
    assert (chosen.selected == (table["n_images"].to_numpy() > 0)).all()
    more = select(table, features, n_pictures + 20, n_clusters=1, scorers=["image_grounding"])
    assert more.summary["counters"]["undefined_fills"] == 20
    assert np.isnan(more.score[table["n_images"].to_numpy() == 0]).all()


def test_zeroed_pictures_do_not_give_texts_a_grounding() -> None:
    """With the released way of measuring, texts have a number there: it stays undefined for the paper's scorer."""
    table, features = make_table(200, groups=1, text_only=0.2)
    zeroed = replace(table, "nll_without_image", np.nan_to_num(table["nll_without_image"].to_numpy(), nan=0.5))
    args = {"n_clusters": 1, "scorers": ["image_grounding"]}
    assert by_id(table, select(table, features, 90, **args)) == by_id(zeroed, select(zeroed, features, 90, **args))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_policies_for_scores(bad: float) -> None:
    table, features = make_table(300)
    nll = table["nll"].to_numpy().copy()
    nll[[3, 200]] = bad
    broken = replace(table, "nll", nll)
    ids = table["id"].to_pylist()
    with pytest.raises(NonFiniteError, match=f"{ids[3]}, {ids[200]}"):
        select(broken, features, 50, n_clusters=3)

    dropped = select(broken, features, 299, n_clusters=3, on_nonfinite="drop")
    assert dropped.selected.sum() == 298
    assert dropped.cluster[[3, 200]].tolist() == [-1, -1]
    assert dropped.reason[3] == "dropped: perplexity is not finite"
    assert dropped.summary["counters"]["dropped"] == 2

    zeroed = select(broken, features, 299, n_clusters=3, on_nonfinite="zero", scorers=["perplexity"])
    assert zeroed.selected.sum() == 299
    assert zeroed.score[3] == 0
    assert zeroed.summary["counters"]["nonfinite_perplexity"] == 2
    json.dumps(zeroed.summary, allow_nan=False)


def test_policies_for_features() -> None:
    table, features = make_table(300)
    features[7, 2] = np.nan
    with pytest.raises(NonFiniteError, match=rf"{table['id'][7]}: .*sketch"):
        select(table, features, 50, n_clusters=3)
    assert select(table, features, 300, n_clusters=3, on_nonfinite="drop").cluster[7] == -1
    assert select(table, features, 300, n_clusters=3, on_nonfinite="zero").cluster[7] >= 0


def test_zero_features_are_counted() -> None:
    table, features = make_table(100)
    features[:4] = 0
    assert select(table, features, 20, n_clusters=3).summary["counters"]["zero_features"] == 4


def test_a_missing_picture_score_is_an_error_where_there_are_pictures() -> None:
    table, features = make_table(100, text_only=0.0)
    holed = table["nll_without_image"].to_numpy().copy()
    holed[5] = np.nan
    with pytest.raises(NonFiniteError, match="image_grounding"):
        select(replace(table, "nll_without_image", holed), features, 10, n_clusters=2)
    unknown = replace(table, "nll_without_image", holed).drop_columns("n_images")
    assert select(unknown, features, 10, n_clusters=2).selected.sum() == 10


def test_singletons_are_drawn_uniformly_and_counted() -> None:
    table, features = make_table(40, groups=3)
    features[0] = np.eye(16)[15]
    chosen = select(table, features, 40, n_clusters=4)
    assert chosen.summary["sizes"][-1] == 1
    assert chosen.scorer[0] == ""
    assert chosen.reason[0] == "uniform draw, cluster 3 without a usable scorer"
    assert chosen.summary["counters"]["clusters_without_scorer"] == 1
    assert select(table, features, 6, n_clusters=40).selected.sum() == 6


def test_constant_scores_everywhere_are_an_error() -> None:
    table, features = make_table(60)
    for name in ("nll", "entropy", "el2n"):
        table = replace(table, name, np.ones(60))
    table = replace(table, "nll_without_image", np.where(table["n_images"].to_numpy() > 0, 1.5, np.nan))
    with pytest.raises(NoUsableScorerError, match="every cluster"):
        select(table, features, 10, n_clusters=3)


def test_copies_make_fewer_clusters() -> None:
    table, features = make_table(50)
    features[:] = 1.0
    chosen = select(table, features, 20, n_clusters=10)
    assert chosen.summary["sizes"] == [50]
    assert chosen.selected.sum() == 20


def test_auto_finds_the_number_of_groups() -> None:
    table, features = make_table(1200, groups=10)
    chosen = select(table, features, 100, n_clusters="auto")
    assert chosen.summary["k"] == 10
    assert [point["k"] for point in chosen.summary["elbow"]] == list(range(5, 51, 5))


def test_impossible_requests() -> None:
    table, features = make_table(30)
    with pytest.raises(BudgetError, match="31 samples were asked of a pool of 30"):
        select(table, features, 31)
    with pytest.raises(ClusterCountError, match="31 clusters were asked of 30"):
        select(table, features, 5, n_clusters=31)
    with pytest.raises(ClusterCountError, match="auto"):
        select(table.slice(0, 4), features[:4], 2, n_clusters="auto")
    with pytest.raises(ConfigError, match="did you mean 'perplexity'"):
        select(table, features, 5, scorers=["perplexty"])
    with pytest.raises(ConfigError, match="unknown preset"):
        select(table, features, 5, preset="papre")
    with pytest.raises(ConfigError, match="policy"):
        select(table, features, 5, on_nonfinite="ignore")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="n_clusters"):
        select(table, features, 5, n_clusters=0)
    with pytest.raises(DataError, match="needs the column 'el2n'"):
        select(table.drop_columns("el2n"), features, 5)
    with pytest.raises(DataError, match="29 rows for 30 ids"):
        select(table, features[:29], 5)
    with pytest.raises(DuplicateIdError, match="same"):
        select(replace(table, "id", ["same"] * 30), features, 5)
    with pytest.raises(BudgetError, match="empty"):
        select(table.slice(0, 0), features[:0], 1)
    with pytest.raises(DataError, match="no sketch"):
        AdaptInfinity().select(Pool(["a"], ["t"], np.ones(1, bool)), 1, 0)


def test_what_each_preset_reads() -> None:
    paper = make_selector("paper", SelectionConfig()).needs()
    assert paper.sketch
    assert not paper.hidden
    assert set(paper.scores) == {"nll", "el2n", "entropy", "nll_without_image"}
    everything = SelectionConfig(scorers=["perplexity", "entropy", "grand", "el2n", "image_grounding"])
    assert set(make_selector("released", everything).needs().scores) == {
        "mean_exp_nll", "entropy_all", "el2n", "grad_norm", "nll_without_image",
    }  # fmt: skip


def test_clusters_may_be_of_hidden_means() -> None:
    table, features = make_table(300)
    by_sketch = AdaptInfinity(n_clusters=3)
    by_hidden = make_selector("paper", SelectionConfig(n_clusters=3, cluster_by="hidden"))
    assert isinstance(by_hidden, AdaptInfinity) and (by_hidden.needs().sketch, by_hidden.needs().hidden) == (
        False,
        True,
    )
    pool = Pool.from_table(table, hidden=features)
    expected = by_sketch.select(Pool.from_table(table, sketch=features), 90, 5)
    assert by_id(table, by_hidden.select(pool, 90, 5)) == by_id(table, expected)
    with pytest.raises(DataError, match="has no hidden"):
        by_hidden.select(Pool.from_table(table, sketch=features), 90, 5)
    spoiled = features.copy()
    spoiled[7, 3] = np.nan
    with pytest.raises(NonFiniteError, match="1 of 300 samples have a hidden that is not finite"):
        by_hidden.select(Pool.from_table(table, hidden=spoiled), 90, 5)


def test_ranks_hold_no_scale() -> None:
    """A scorer under any increasing map decides the same by ranks, and another thing by its values; ranks themselves
    are used as they are."""
    table, features = make_table(300)
    names = ("entropy", "el2n")
    warped = replace(table, "el2n", np.exp(9 * table["el2n"].to_numpy()))
    by_ranks, by_value = (AdaptInfinity(n_clusters=3, scorers=names, scores=scores) for scores in ("ranks", "raw"))

    def decide(selector: AdaptInfinity, table: pa.Table) -> dict[str, tuple[object, ...]]:
        return by_id(table, selector.select(Pool.from_table(table, sketch=features), 90, 5))

    assert decide(by_ranks, table) == decide(by_ranks, warped)
    assert decide(by_value, table) != decide(by_value, warped)
    ranked = table
    for name in names:
        ranked = replace(ranked, name, (stats.rankdata(table[name].to_numpy()) - 0.5) / 300)
    assert decide(by_ranks, table) == decide(by_value, ranked)
    made = by_ranks.select(Pool.from_table(table, sketch=features), 90, 5)
    chose = np.array(made.scorer) == "el2n"
    assert chose.any() and (made.score[chose] == table["el2n"].to_numpy()[chose]).all()  # what is shown is the value


def test_ranks_are_of_those_that_have_the_score() -> None:
    values = np.array([3.0, 1.0, np.nan, 3.0, 9.0])
    found = _ranks(values, np.array([True, True, True, True, False]))
    assert found[[0, 1, 3]] == pytest.approx([2 / 3, 1 / 6, 2 / 3]) and np.isnan(found[[2, 4]]).all()
    assert np.isnan(_ranks(values, np.zeros(5, bool))).all()


def test_scorer_formulas_on_one_sample() -> None:
    raw = {
        "nll": 0.7,
        "mean_exp_nll": 2.5,
        "entropy": 0.4,
        "entropy_all": 0.9,
        "el2n": 0.3,
        "grad_norm": 8.0,
        "nll_without_image": 1.1,
    }
    names = ["perplexity", "el2n", "entropy", "image_grounding", "grand"]
    columns = {name: np.array([value]) for name, value in raw.items()}
    expected = {
        "paper": [math.exp(0.7), 0.3, 0.4, math.exp(1.1) / math.exp(0.7), 8.0],
        "released": [math.log(2.5), 0.3, 0.9, math.exp(1.1) / 2.5, 8.0],
    }
    for preset, values in expected.items():
        scorers = AdaptInfinity(preset, scorers=names).scorers
        assert [float(scorer.values(columns)[0]) for scorer in scorers] == pytest.approx(values, rel=1e-12)
