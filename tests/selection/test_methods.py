"""Other papers' selectors against plain re-implementations: exact budgets, ties, degenerate scores, seeds."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from adaptinf.errors import BudgetError, DataError, NonFiniteError
from adaptinf.selection import Pool, make_selector, selector_names
from adaptinf.selection.budget import proportional
from adaptinf.selection.methods import dbp, oasis
from adaptinf.selection.methods.coincide import represent, transferability
from adaptinf.selection.methods.neighbours import greedy, nearest

METHODS = (
    "adaptinf", "ccs", "coincide", "d2", "dbp", "el2n", "entropy", "grand", "image_grounding", "infobatch", "less",
    "oasis", "perplexity_high", "perplexity_low", "perplexity_mid", "rotation", "self_filter", "semdedup", "tive",
)  # fmt: skip
N = 90


def make_pool(n: int = N, *, seed: int = 0, constant: bool = False) -> Pool:
    """Five blobs of hidden means, sketches of three tasks, every score column; a third has no pictures."""
    rng = np.random.default_rng(seed)
    blob = rng.integers(0, 5, n)
    hidden = rng.normal(size=(5, 12))[blob] * 2 + rng.normal(size=(n, 12))
    sketch = rng.normal(size=(3, 16))[np.arange(n) % 3] + rng.normal(size=(n, 16))
    nll = rng.gamma(2.0, 1.0, n)
    images = (np.arange(n) % 3 > 0).astype(float)
    columns = {
        "nll": nll,
        "el2n": rng.uniform(0, 1.4, n),
        "entropy": rng.uniform(0, 3, n),
        "grad_norm": rng.gamma(2.0, 1.0, n) * (1 + np.arange(n) % 3),
        "nll_without_image": np.where(images > 0, nll + rng.normal(size=n), np.nan),
        "n_images": images,
    }
    if constant:
        hidden, sketch = np.ones_like(hidden), np.ones_like(sketch)
        columns = {name: np.ones(n) for name in columns}
    ids = [f"id{i:03d}" for i in rng.permutation(n)]
    tasks = [f"task{i % 3}" for i in range(n)]
    return Pool(ids, tasks, np.arange(n) > n // 2, columns, sketch.astype(np.float32), hidden.astype(np.float32))


def by_id(pool: Pool) -> Pool:
    return pool.take(np.argsort(pool.ids))


def chosen(pool: Pool, name: str, budget: int, seed: int = 0) -> set[str]:
    mask = make_selector(name).select(pool, budget, seed).selected
    return {pool.ids[i] for i in np.flatnonzero(mask)}


def cosines(rows: np.ndarray) -> np.ndarray:
    unit = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return unit @ unit.T


def test_all_are_registered() -> None:
    assert set(METHODS) <= set(selector_names())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("constant", [False, True])
def test_budget_is_exact_and_the_seed_decides(name: str, constant: bool) -> None:
    pool = make_pool(constant=constant)
    for budget in (1, 7, 45, N - 1, N):
        made = make_selector(name).select(pool, budget, 3)
        assert made.selected.sum() == budget == made.summary["n_selected"]
        assert (made.selected == make_selector(name).select(pool, budget, 3).selected).all()
        assert len(made.reason) == N and all(made.reason)


@pytest.mark.parametrize("name", METHODS)
def test_one_sample_is_enough(name: str) -> None:
    assert make_selector(name).select(make_pool(1), 1, 0).selected.tolist() == [True]


@pytest.mark.parametrize("name", METHODS)
def test_the_order_of_the_pool_does_not_matter(name: str) -> None:
    pool = make_pool()
    shuffled = pool.take(np.random.default_rng(5).permutation(N))
    assert chosen(shuffled, name, 30) == chosen(pool, name, 30)


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_does_not_ask_for_it_does_not_read(name: str) -> None:
    pool, needs = make_pool(), make_selector(name).needs()
    given_only = Pool(
        pool.ids,
        pool.tasks,
        pool.is_new,
        {column: pool.scores[column] for column in (*needs.scores, "n_images")},
        pool.sketch if needs.sketch else None,
        pool.hidden if needs.hidden else None,
    )
    assert chosen(given_only, name, 20) == chosen(pool, name, 20)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_missing_or_not_finite_is_named(name: str) -> None:
    pool, needs = make_pool(), make_selector(name).needs()
    with pytest.raises(BudgetError, match=f"{N + 1} samples were asked"):
        make_selector(name).select(pool, N + 1, 0)
    for column in needs.scores:
        less = {key: values for key, values in pool.scores.items() if key != column}
        with pytest.raises(DataError, match=column):
            make_selector(name).select(Pool(pool.ids, pool.tasks, pool.is_new, less, pool.sketch, pool.hidden), 5, 0)
        broken = pool.scores | {column: np.where(np.arange(N) == 4, np.inf, pool.scores[column])}
        with pytest.raises(NonFiniteError, match=pool.ids[4]):
            make_selector(name).select(Pool(pool.ids, pool.tasks, pool.is_new, broken, pool.sketch, pool.hidden), 5, 0)
    for part in ("sketch", "hidden"):
        if getattr(needs, part):
            parts = {"sketch": pool.sketch, "hidden": pool.hidden}
            with pytest.raises(DataError, match=f"has no {part}"):
                make_selector(name).select(
                    Pool(pool.ids, pool.tasks, pool.is_new, pool.scores, **(parts | {part: None})), 5, 0
                )
            rows = parts[part].copy()
            rows[4, 0] = np.nan
            with pytest.raises(NonFiniteError, match=pool.ids[4]):
                make_selector(name).select(
                    Pool(pool.ids, pool.tasks, pool.is_new, pool.scores, **(parts | {part: rows})), 5, 0
                )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("perplexity_high", lambda s: math.exp(s["nll"])),
        ("perplexity_low", lambda s: -s["nll"]),
        ("el2n", lambda s: s["el2n"]),
        ("entropy", lambda s: s["entropy"]),
        ("grand", lambda s: s["grad_norm"]),
        ("image_grounding", lambda s: s["nll_without_image"] - s["nll"]),
    ],
)
def test_ranked_takes_the_end_of_the_ranks(name: str, value: object) -> None:
    pool = make_pool()
    keys = {
        id: value({column: values[i] for column, values in pool.scores.items()})  # type: ignore[operator]
        for i, id in enumerate(pool.ids)
        if name != "image_grounding" or pool.scores["n_images"][i]
    }
    best = sorted(keys, key=keys.__getitem__, reverse=True)
    assert chosen(pool, name, 20) == set(best[:20])
    if name == "image_grounding":  # those without pictures fill up
        assert chosen(pool, name, 70) > set(best)


def test_ranked_takes_the_middle() -> None:
    pool = make_pool()
    middle = [pool.ids[i] for i in np.argsort(-pool.scores["nll"])]
    for budget in (1, 20, 21, N):
        first = (N - budget) // 2
        assert chosen(pool, "perplexity_mid", budget) == set(middle[first : first + budget])


def test_ties_are_drawn() -> None:
    pool = make_pool(constant=True)
    drawn = np.sum([make_selector("el2n").select(pool, 30, seed).selected for seed in range(300)], axis=0)
    assert stats.chisquare(drawn).pvalue > 1e-4


def test_ccs_cuts_the_hardest_and_covers_the_rest() -> None:
    pool = make_pool()
    hardest = [pool.ids[i] for i in np.argsort(-pool.scores["el2n"])]
    made = make_selector("ccs").select(pool, 9, 0)  # 90 % pruned: beta 0.3
    assert made.summary["beta"] == pytest.approx(0.3)
    assert not set(hardest[:26]) & chosen(pool, "ccs", 9)
    assert make_selector("ccs").select(pool, 45, 0).summary["beta"] == 0
    # Ten strata of nine scores each: every stratum gives its share.
    even = Pool(pool.ids, pool.tasks, pool.is_new, {"el2n": np.arange(N) // 9 / 10})
    covered = make_selector("ccs")
    covered.bins = 10  # type: ignore[attr-defined]
    mask = covered.select(even, 40, 0).selected
    assert np.bincount(np.arange(N)[mask] // 9).tolist() == [4] * 10


def reference_greedy(values: list[float], edges: dict[int, dict[int, float]], count: int) -> list[int]:
    values, left, taken = list(values), set(range(len(values))), []
    for _ in range(count):
        best = max(sorted(left), key=values.__getitem__)
        taken.append(best)
        left.remove(best)
        for j, weight in edges[best].items():
            if j in left:
                values[j] -= weight * values[best]
    return taken


@given(st.integers(0, 10**6), st.integers(1, 25))
@settings(max_examples=60, deadline=None)
def test_greedy_is_argmax_again_and_again(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(-3, 9, 25).astype(float)  # ties and negative values, which raise their neighbours
    rows = np.stack([rng.permutation(25)[:4] for _ in range(25)])
    weights = rng.choice([0.0, 0.5, 1.0, 2.0], (25, 4))
    edges = {i: dict(zip(rows[i].tolist(), weights[i].tolist(), strict=True)) for i in range(25)}
    assert greedy(values, rows, weights, count) == reference_greedy(values.tolist(), edges, count)


def test_nearest_is_exact_in_any_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    unit = make_pool().hidden
    assert unit is not None
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    among = cosines(unit) - 3 * np.eye(N)
    for block in (1 << 25, 7 * N, 1):
        monkeypatch.setattr("adaptinf.selection.methods.neighbours._BLOCK", block)
        found = nearest(unit, 6)
        assert (found.rows == np.argsort(-among, axis=1)[:, :6]).all()
        assert found.cosines == pytest.approx(-np.sort(-among, axis=1)[:, :6], abs=12 * 2**-24)
    assert nearest(unit[:3], 6).rows.shape == (3, 2)


@pytest.mark.parametrize("name", ["d2", "self_filter"])
def test_graph_methods(name: str) -> None:
    pool = by_id(make_pool())
    among, k = cosines(pool.hidden) - 3 * np.eye(N), 5 if name == "d2" else 10
    near = {i: [int(j) for j in np.argsort(-among[i])[:k]] for i in range(N)}
    if name == "d2":
        hard = pool.scores["el2n"]
        distance = {(i, j): 2 - 2 * among[i, j] for i in near for j in near[i]}
        values = [hard[i] + sum(math.exp(-distance[i, j]) * hard[j] for j in near[i]) for i in range(N)]
        edges = {i: {j: math.exp(-0.1 * distance[i, j]) for j in near[i]} for i in range(N)}
    else:
        values = pool.scores["nll"].tolist()
        edges = {i: {j: among[i, j] ** 2 for j in near[i]} for i in range(N)}
    assert chosen(pool, name, 25) == {pool.ids[i] for i in reference_greedy(values, edges, 25)}


def test_infobatch_keeps_what_is_hard() -> None:
    pool = make_pool()
    hard = {id for id, loss in zip(pool.ids, pool.scores["nll"], strict=True) if loss >= pool.scores["nll"].mean()}
    assert chosen(pool, "infobatch", len(hard) + 9) > hard
    assert chosen(pool, "infobatch", len(hard) - 9) < hard
    few = [make_selector("infobatch").select(pool, len(hard) + 9, seed).selected for seed in range(300)]
    easy = [id not in hard for id in pool.ids]
    assert stats.chisquare(np.sum(few, axis=0)[easy]).pvalue > 1e-4


def test_semdedup_keeps_the_lowest_similarity_to_harder_samples() -> None:
    pool = by_id(make_pool())
    made = make_selector("semdedup").select(pool, 40, 2)
    among = cosines(pool.hidden)
    unit = pool.hidden / np.linalg.norm(pool.hidden, axis=1, keepdims=True)
    highest = np.full(N, -np.inf)
    for c in np.unique(made.cluster):
        rows = np.flatnonzero(made.cluster == c)
        centre = unit[rows].mean(axis=0)
        hard_first = rows[np.argsort(unit[rows] @ centre, kind="stable")]
        for place, row in enumerate(hard_first[1:], start=1):
            highest[row] = among[row, hard_first[:place]].max()
    assert set(np.flatnonzero(made.selected)) == set(np.argsort(highest)[:40])


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_dbp_solves_its_quadratic_program(seed: int) -> None:
    rng = np.random.default_rng(seed)
    k = int(rng.integers(1, 7))
    sizes = rng.integers(1, 40, k)
    budget = int(rng.integers(1, sizes.sum() + 1))
    share = rng.dirichlet(np.full(k, 0.7))
    found = dbp.allocate(share, sizes, budget)
    low = np.minimum(int(budget / k * 0.5), sizes - 1)
    assert found.sum() == budget and (found <= sizes).all() and (found >= low).all()
    solved = optimize.minimize(
        lambda x: ((x - share * budget) ** 2).sum() / 2,
        np.clip(sizes * budget / sizes.sum(), low, sizes),
        jac=lambda x: x - share * budget,
        bounds=list(zip(low, sizes, strict=True)),
        constraints={"type": "eq", "fun": lambda x: x.sum() - budget, "jac": lambda x: np.ones(k)},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert np.abs(found - solved.x).max() < 1 + 1e-3


def test_dbp_takes_the_farthest_of_wide_clusters() -> None:
    pool = by_id(make_pool())
    made = make_selector("dbp").select(pool, 30, 0)
    unit = pool.hidden / np.linalg.norm(pool.hidden, axis=1, keepdims=True)
    for c, share in enumerate(made.summary["budgets"]):
        rows = np.flatnonzero(made.cluster == c)
        centre = unit[rows].mean(axis=0)
        far_first = rows[np.argsort(unit[rows] @ centre)]
        assert set(far_first[:share]) == set(np.flatnonzero(made.selected & (made.cluster == c)))


def test_dbp_complexity_by_hand() -> None:
    directions = np.eye(3)  # every other centroid is at distance 1
    weights = dbp._complexity(directions, np.array([0.0, 0.5, 1.0]))
    assert weights == pytest.approx(np.exp([0, 1, 2]) / np.exp([0, 1, 2]).sum())
    assert dbp._complexity(np.ones((1, 3)), np.array([0.3])) == pytest.approx([1.0])


def test_coincide_represents_a_cluster() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(14, 3))
    kernel = np.exp(-((rows[:, None] - rows) ** 2).sum(-1) / 2)
    taken: list[int] = []
    for size in range(1, 7):
        left = [i for i in range(14) if i not in taken]
        discrepancy = {
            i: kernel[np.ix_([*taken, i], [*taken, i])].sum() / size**2 - 2 * kernel[[*taken, i]].sum() / (14 * size)
            for i in left
        }
        taken.append(min(left, key=discrepancy.__getitem__))
    assert represent(rows, kernel.mean(axis=1), 6) == taken


def test_coincide_by_hand() -> None:
    angle = np.deg2rad([0, 60, 90, 5])
    centroids = 3 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    cos = np.cos(np.subtract.outer(angle, angle))
    expected = [
        (cos[0, 1] + cos[0, 2]) / 2,  # 5 degrees away is the same
        cos[1, [0, 2, 3]].mean(),
        cos[2, [0, 1, 3]].mean(),
        (cos[3, 1] + cos[3, 2]) / 2,
    ]
    assert transferability(centroids) == pytest.approx(expected)
    assert transferability(np.ones((1, 2))).tolist() == [0.0]
    pool = by_id(make_pool())
    made = make_selector("coincide").select(pool, 30, 0)
    value = np.array(made.summary["transferability"]) / (0.1 * np.array(made.summary["density"]))
    sizes = np.bincount(made.cluster)
    assert made.summary["budgets"] == proportional(np.exp(value - value.max()), sizes.tolist(), 30)
    assert np.bincount(made.cluster[made.selected], minlength=len(sizes)).tolist() == made.summary["budgets"]


def test_tive_shares_by_gradient_norm_and_draws_by_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = by_id(make_pool())
    pool = pool.take(np.flatnonzero((np.array(pool.tasks) != "task0") | (np.arange(N) < 40)))  # tasks of unlike sizes
    tasks = np.array(pool.tasks)
    sizes = [int((tasks == t).sum()) for t in ("task0", "task1", "task2")]
    assert sizes[0] < sizes[1]
    norms = [pool.scores["grad_norm"][tasks == t].mean() for t in ("task0", "task1", "task2")]
    monkeypatch.setattr("adaptinf.selection.methods.tive._SHARPNESS", 1e9)
    made = make_selector("tive").select(pool, 24, 0)
    assert list(made.summary["budgets"].values()) == proportional(norms, sizes, 24)
    among = cosines(pool.sketch)
    for task, share in made.summary["budgets"].items():
        rows = np.flatnonzero(tasks == task)
        value = among[np.ix_(rows, rows)].mean(axis=1)
        assert set(rows[np.argsort(-value)[:share]]) == set(rows) & set(np.flatnonzero(made.selected))


def test_tive_draws_nearly_uniformly_as_published() -> None:
    pool = make_pool(30)
    one = Pool(pool.ids, ["t"] * 30, pool.is_new, pool.scores, pool.sketch)
    drawn = np.sum([make_selector("tive").select(one, 10, seed).selected for seed in range(300)], axis=0)
    assert stats.chisquare(drawn).pvalue > 1e-4


def test_oasis_discounts_what_resembles() -> None:
    e = np.eye(3)
    half = (e[0] + e[1]) / np.sqrt(2)
    found = oasis.discount(np.array([4.0, 3.0, 2.0, 1.0]), np.stack([e[0], e[0], half, -e[0]]))
    # The first is taken; its copy is worth nothing, the one at 45 degrees less, the opposite one all it was.
    assert found == pytest.approx([4, 0, 2 * (1 - np.sqrt(0.5)) * 1, 1])


def test_oasis_follows_the_stream() -> None:
    pool = by_id(make_pool())
    made = make_selector("oasis").select(pool, 20, 7)
    information = pool.scores["grad_norm"] ** 2
    unit = pool.sketch.astype(float) / np.linalg.norm(pool.sketch.astype(float), axis=1, keepdims=True)
    order = np.random.default_rng(7).permutation(N)
    mean = variance = None
    expected = np.empty(N)
    for start in range(0, N, 32):
        rows = order[start : start + 32]
        left = oasis.discount(information[rows], unit[rows])
        mean = left.mean() if mean is None else 0.9 * mean + 0.1 * left.mean()
        spread = ((left - mean) ** 2).mean()
        variance = spread if variance is None else 0.9 * variance + 0.1 * spread
        expected[rows] = (left - mean) / np.sqrt(variance)
    assert made.score == pytest.approx(expected, abs=1e-6)  # the selector's unit rows are float32
    assert set(np.flatnonzero(made.selected)) == set(np.argsort(-expected)[:20])


def test_less_is_the_largest_mean_cosine_to_a_tasks_targets() -> None:
    pool = by_id(make_pool())
    selector = make_selector("less")
    selector.targets = N  # type: ignore[attr-defined]  # all of a task: no draw
    made = selector.select(pool, 20, 0)
    among, tasks = cosines(pool.sketch), np.array(pool.tasks)
    expected = np.full(N, -np.inf)
    for i, task in itertools.product(range(N), np.unique(tasks)):
        targets = [j for j in np.flatnonzero(tasks == task) if j != i]
        expected[i] = max(expected[i], among[i, targets].mean())
    assert made.score == pytest.approx(expected, abs=1e-6)
    assert set(np.flatnonzero(made.selected)) == set(np.argsort(-expected)[:20])


def test_less_takes_the_optimisers_direction_for_the_candidates_alone() -> None:
    """Targets along x and y; a gradient along x that Adam turns to y is as good as the best of y."""
    rows = np.zeros((4, 2), np.float32)
    rows[:, 0] = 1
    direction = np.array([[1, 0], [0, 2], [1, 1], [-1, 0]], np.float32)
    pool = Pool(["a", "b", "c", "d"], ["t"] * 4, np.ones(4, bool), {}, rows, direction=direction)
    made = make_selector("less").select(pool, 2, 0)
    assert made.score == pytest.approx([1, 0, np.sqrt(0.5), -1])
    assert made.selected.tolist() == [True, False, True, False]
    before = Pool(pool.ids, pool.tasks, pool.is_new, {}, rows)
    assert make_selector("less").select(before, 2, 0).score == pytest.approx(np.ones(4))


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 30)), min_size=1, max_size=8),
    st.floats(0, 1),
)
@settings(max_examples=200, deadline=None)
def test_proportional_is_exact_and_fair(entries: list[tuple[float, int]], share: float) -> None:
    weights, caps = [w for w, _ in entries], [c for _, c in entries]
    budget = int(share * sum(caps))
    found = proportional(weights, caps, budget)
    assert sum(found) == budget
    assert all(0 <= got <= cap for got, cap in zip(found, caps, strict=True))
    for (w, got, cap), (v, other, _) in itertools.permutations(list(zip(weights, found, caps, strict=True)), 2):
        if got < cap and w > 0 and v > 0 and w < 1e300:  # who could take more has no less than its share beside others
            assert got + 1 >= (other - 1) * w / v - 1e-6


def test_proportional_refuses_what_it_cannot_do() -> None:
    assert proportional([1, 3], [10, 10], 8) == [2, 6]
    assert proportional([1, 3], [10, 4], 8) == [4, 4]
    assert proportional([0, 1], [10, 4], 8) == [4, 4]
    assert proportional([1, 1, 1], [5, 5, 5], 4) == [2, 1, 1]
    for weights, caps, budget in (([1], [3], 4), ([-1], [3], 1), ([np.nan], [3], 1), ([1, 2], [3], 1)):
        with pytest.raises(BudgetError):
            proportional(weights, caps, budget)


# 12 of 60: a fifth of each, 8, 3.4 and 0.6; by the roots of the sizes 6.23, 4.06 and 1.71; by largest remainder
@pytest.mark.parametrize(("name", "shares"), [("rotation", [8, 3, 1]), ("adaptinf", [6, 4, 2])])
def test_rotation_shares_are_exact_and_every_sample_comes_before_any_comes_again(name: str, shares: list[int]) -> None:
    sizes = {"a": 40, "b": 17, "c": 3}
    ids = [f"{task}{i:02d}" for task, size in sizes.items() for i in range(size)]
    order = np.random.default_rng(0).permutation(len(ids))
    ids = [ids[i] for i in order]
    trained = np.zeros(len(ids), np.int64)
    for step in range(9):
        pool = Pool(ids, [id[0] for id in ids], np.zeros(len(ids), bool), n_trained=trained.copy())
        made = make_selector(name).select(pool, 12, step)
        assert [sum(id[0] == task for id in np.array(ids)[made.selected]) for task in sizes] == shares
        assert made.summary["shares"] == dict(zip(sizes, shares, strict=True)) and made.summary["selector"] == name
        assert made.summary["unseen"] == (trained == 0).sum()
        trained += made.selected
        for task in sizes:
            counts = trained[[id[0] == task for id in ids]]
            assert counts.max() - counts.min() <= 1
    without = make_selector(name).select(Pool(ids, [id[0] for id in ids], np.zeros(len(ids), bool)), 12, 0)
    first = Pool(ids, [id[0] for id in ids], np.zeros(len(ids), bool), n_trained=np.zeros(len(ids), np.int64))
    assert (without.selected == make_selector(name).select(first, 12, 0).selected).all()


def test_rotation_draws_evenly_among_equals() -> None:
    pool = Pool([f"id{i}" for i in range(20)], ["t"] * 20, np.zeros(20, bool), n_trained=np.arange(20) % 2)
    drawn = np.sum([make_selector("rotation").select(pool, 4, seed).selected for seed in range(500)], axis=0)
    assert not drawn[1::2].any()
    assert stats.chisquare(drawn[::2]).pvalue > 1e-4
