"""DETAIL's formulas against dense float64 algebra, finite differences and leave-one-out of the ridge regression."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from adaptinf_kernels import Sketch
from scipy.stats import spearmanr

from adaptinf.data import Message, Sample
from adaptinf.errors import ConfigError, DataError, NonFiniteError
from adaptinf.influence.demonstrations import demonstration_influence, demonstration_states, detail
from adaptinf.models import LanguageModel


class Task:
    """A classification that a linear map solves up to noise."""

    def __init__(self, n: int, d: int, *, seed: int = 0, classes: int = 3, queries: int = 4) -> None:
        rng = np.random.default_rng(seed)
        truth = rng.normal(size=(d, classes))
        self.x = rng.normal(size=(n + queries, d))
        label = (self.x @ truth + 0.3 * rng.normal(size=(n + queries, classes))).argmax(1)
        y = np.eye(classes)[label]
        self.x, self.q = self.x[:n], self.x[n:]
        self.y, self.targets = y[:n], y[n:]

    def influence(self, alpha: float, **options: object):
        tensors = [torch.from_numpy(part) for part in (self.x, self.y, self.q, self.targets)]
        return demonstration_influence(*tensors, alpha=alpha, **options)


def weights(x: np.ndarray, y: np.ndarray, alpha: float, counts: np.ndarray | None = None) -> np.ndarray:
    """argmin of ``sum_i c_i |x_i w - y_i|^2 / 2 + alpha (1 + sum_i (c_i - 1)) |w|^2 / 2``."""
    counts = np.ones(len(x)) if counts is None else counts
    ridge = alpha * (1 + (counts - 1).sum())
    return np.linalg.solve(x.T @ (x * counts[:, None]) + ridge * np.eye(x.shape[1]), x.T @ (y * counts[:, None]))


@pytest.mark.parametrize(("n", "d"), [(12, 5), (5, 12), (6, 6), (1, 3)])
@pytest.mark.parametrize("alpha", [1.0, 0.01])
def test_the_formulas(n: int, d: int, alpha: float) -> None:
    task = Task(n, d)
    w = weights(task.x, task.y, alpha)
    hessian = task.x.T @ task.x + alpha * np.eye(d)
    gradient = lambda x, y: np.outer(x, x @ w - y) + alpha * w  # noqa: E731
    found = task.influence(alpha)
    train = [gradient(x, y) for x, y in zip(task.x, task.y, strict=True)]
    for j, (x, y) in enumerate(zip(task.q, task.targets, strict=True)):
        wanted = [(gradient(x, y) * np.linalg.solve(hessian, one)).sum() for one in train]
        np.testing.assert_allclose(found.test[j], wanted, rtol=1e-9, atol=1e-12)
    wanted = [(one * np.linalg.solve(hessian, one)).sum() for one in train]
    np.testing.assert_allclose(found.itself, wanted, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(("n", "d"), [(12, 5), (5, 12)])
def test_without_the_penalty_the_gradients_are_the_losses_alone(n: int, d: int) -> None:
    task, alpha = Task(n, d), 0.5
    w = weights(task.x, task.y, alpha)
    inverse = np.linalg.inv(task.x.T @ task.x + alpha * np.eye(d))
    train, asked = (
        [np.outer(x, x @ w - y) for x, y in zip(*rows, strict=True)]
        for rows in ((task.x, task.y), (task.q, task.targets))
    )
    found = task.influence(alpha, penalty=False)
    wanted = [[(a * (inverse @ b)).sum() for b in train] for a in asked]
    np.testing.assert_allclose(found.test, wanted, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.itself, [(b * (inverse @ b)).sum() for b in train], rtol=1e-8, atol=1e-12)


def test_few_demonstrations_contradict_where_the_penalty_is_left_out() -> None:
    """Fewer than dimensions, at the published alpha: the formula's order is turned round by its penalty."""
    alpha, n = 1e-9, 8
    task = Task(n, 30)
    inverse = np.linalg.inv(task.x @ task.x.T + alpha * np.eye(n))
    dual = ((inverse @ task.y) ** 2).sum(1)
    np.testing.assert_allclose(task.influence(alpha, penalty=False).itself, alpha**2 * dual, rtol=1e-6)
    np.testing.assert_allclose(task.influence(alpha).itself, alpha**2 * (dual.sum() - dual), rtol=1e-6)
    apart = []
    for i in range(n):
        keep = np.arange(n) != i
        apart.append(((task.x[i] @ weights(task.x[keep], task.y[keep], alpha) - task.y[i]) ** 2).sum() / 2)
    np.testing.assert_allclose(apart, dual / inverse.diagonal() ** 2 / 2, rtol=1e-5)


def test_they_are_derivatives() -> None:
    alpha, step = 0.5, 1e-4
    task = Task(9, 5)
    found = task.influence(alpha)
    loss = lambda w: ((task.q @ w - task.targets) ** 2).sum(1) / 2 + alpha / 2 * (w**2).sum()  # noqa: E731
    for i in range(9):
        up, down = (weights(task.x, task.y, alpha, 1 + sign * step * np.eye(9)[i]) for sign in (1, -1))
        np.testing.assert_allclose(-found.test[:, i], (loss(up) - loss(down)) / (2 * step), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("alpha", "least"), [(0.1, 0.95), (1.0, 0.8)])  # DETAIL's gradients hold a share of alpha w
def test_test_influence_ranks_as_leaving_one_out_does(seed: int, alpha: float, least: float) -> None:
    task = Task(60, 10, seed=seed, queries=1)
    base = ((task.q @ weights(task.x, task.y, alpha) - task.targets) ** 2).sum() / 2
    without = []
    for i in range(60):
        keep = np.arange(60) != i
        w = weights(task.x[keep], task.y[keep], alpha)
        without.append(((task.q @ w - task.targets) ** 2).sum() / 2 - base)
    assert spearmanr(task.influence(alpha).test[0], without).statistic > least


def test_self_influence_ranks_as_leaving_one_out_does() -> None:
    task = Task(60, 10)
    own = []
    w = weights(task.x, task.y, 0.1)
    for i in range(60):
        keep = np.arange(60) != i
        apart = weights(task.x[keep], task.y[keep], 0.1)
        own.append(((task.x[i] @ apart - task.y[i]) ** 2 - (task.x[i] @ w - task.y[i]) ** 2).sum() / 2)
    assert spearmanr(task.influence(0.1).itself, own).statistic > 0.95


def test_self_influence_finds_wrong_labels() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 60)
    x = 2 * rng.normal(size=(3, 16))[label] + rng.normal(size=(60, 16))  # classes lie apart, as hidden states do
    label[:6] = (label[:6] + 1) % 3
    states, labels = torch.from_numpy(x), torch.from_numpy(np.eye(3)[label])
    found = demonstration_influence(states, labels, states[:1], labels[:1], alpha=0.1).itself
    assert (found[:6, None] > found[None, 6:]).double().mean() > 0.95  # the area under the ROC curve


@pytest.mark.parametrize(("n", "d"), [(6, 40), (40, 6)])
def test_a_damping_far_below_rounding_leaves_the_digits(n: int, d: int) -> None:
    """Against 60 digits: at alpha = 1e-9 the self-influence of few demonstrations is of the order of alpha squared."""
    mpmath = pytest.importorskip("mpmath")
    task, alpha = Task(n, d), 1e-9
    with mpmath.workdps(60):
        x, y = mpmath.matrix(task.x.tolist()), mpmath.matrix(task.y.tolist())
        hessian = x.T * x + alpha * mpmath.eye(d)
        inverse = hessian**-1
        w = inverse * (x.T * y)
        wanted = []
        for i in range(min(n, 8)):
            gradient = x[i, :].T * (x[i, :] * w - y[i, :]) + alpha * w
            solved = inverse * gradient
            wanted.append(float(sum(a * b for a, b in zip(gradient, solved, strict=True))))
    np.testing.assert_allclose(task.influence(alpha).itself[: len(wanted)], wanted, rtol=1e-12)


def test_a_projection_keeps_the_influence_in_the_mean() -> None:
    task = Task(20, 64)
    whole = task.influence(1.0).test.numpy()
    close, far = (
        np.mean([task.influence(1.0, projection=Sketch("rademacher", k, seed=s)).test.numpy() for s in range(20)], 0)
        for k in (512, 4)
    )
    assert np.corrcoef(close.ravel(), whole.ravel())[0, 1] > 0.99
    assert np.abs(close - whole).mean() < np.abs(far - whole).mean()
    assert task.influence(1.0, projection=Sketch("sjlt", 16)).test.shape == (4, 20)
    assert task.influence(1.0, projection=Sketch("xorts", 16)).test.shape == (4, 20)


def test_bad_input() -> None:
    x, y = torch.ones(3, 4), torch.ones(3, 2)
    for bad, error in (
        ((x, y[:2], x, y), ConfigError),
        ((x, y, x[:, :3], y), ConfigError),
        ((x[:0], y[:0], x, y), ConfigError),
        ((x * float("nan"), y, x, y), NonFiniteError),
    ):
        with pytest.raises(error):
            demonstration_influence(*bad, alpha=1.0)
    for alpha in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="alpha"):
            demonstration_influence(x, y, x, y, alpha=alpha)


def prompt(*turns: tuple[str, str], query: str = "is there a blue square", answer: str = "yes") -> Sample:
    messages = [m for user, said in turns for m in (Message("user", (user,)), Message("assistant", (said,)))]
    return Sample("p", (*messages, Message("user", (query,))), answer, "t")


TURNS = (("what is the colour", "no"), ("two red triangles", "yes"), ("is there a circle", "yes"))


def test_states_are_those_that_predict_each_answer(make_lm: Callable[..., LanguageModel]) -> None:
    lm = make_lm()
    lm.model.train()
    states, answers = demonstration_states(lm, prompt(*TURNS), layer=-1)
    assert lm.model.training
    assert answers == ["no", "yes", "yes", "yes"]
    assert states.shape == (4, 32)
    lm.model.eval()
    # a turn's state depends on what stands before its answer alone, and is the end of its prompt
    for count in range(4):
        short = prompt(*TURNS[:count], query=(*TURNS, ("is there a blue square", ""))[count][0])
        outputs = []
        handle = lm.decoder_layers[-1][1].register_forward_hook(lambda m, a, out, to=outputs: to.append(out))
        with torch.no_grad():
            lm.hidden_states(lm.encoder.collate([lm.encoder.encode_prompt(short)]))
        handle.remove()
        out = outputs[0][0] if isinstance(outputs[0], tuple) else outputs[0]
        torch.testing.assert_close(states[count], out.reshape(-1, 32)[-1], rtol=1e-4, atol=1e-5)


def test_detail_on_a_prompt(make_lm: Callable[..., LanguageModel]) -> None:
    lm = make_lm()
    found = detail(lm, prompt(*TURNS), alpha=1.0)
    states, _ = demonstration_states(lm, prompt(*TURNS), layer=1)  # the middle of four
    labels = torch.tensor([[1.0, 0], [0, 1], [0, 1], [0, 1]])
    wanted = demonstration_influence(states[:3], labels[:3], states[3:], labels[3:], alpha=1.0)
    assert found.test.shape == (1, 3)
    assert torch.equal(found.test, wanted.test)
    assert torch.equal(found.itself, wanted.itself)
    with pytest.raises(DataError, match="no earlier turn"):
        detail(lm, prompt(), alpha=1.0)
    with pytest.raises(ConfigError, match="decoder layers"):
        detail(lm, prompt(*TURNS), alpha=1.0, layer=9)
