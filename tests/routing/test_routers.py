"""Routers over given vectors: every task can be reached, in any order, and what resembles none is left to the base."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from adaptinf.data import Sample
from adaptinf.errors import ConfigError, EmptyTaskError, NonFiniteError
from adaptinf.routing import AnchorRouter, AutoencoderRouter, NearestCentroidRouter, OracleRouter, Router, SwitchNetwork
from adaptinf.routing.router import FeatureRouter, retain

from .conftest import Given, request

KINDS = (SwitchNetwork, AnchorRouter, AutoencoderRouter, NearestCentroidRouter)
Blobs = Callable[..., tuple[dict[str, list[Sample]], Given]]


def accuracy(router: Router, samples: dict[str, list[Sample]]) -> dict[str, float]:
    routed = {name: router.predict(own).tasks for name, own in samples.items()}
    return {name: np.mean([task == name for task in tasks]).item() for name, tasks in routed.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_task_is_reached_at_every_stage(kind: type[FeatureRouter], blobs: Blobs) -> None:
    """The first task too, which the released code of SwitchCIT leaves out of its training."""
    samples, encoder = blobs()
    router = kind(encoder)
    assert isinstance(router, Router)
    for stage, (name, own) in enumerate(samples.items(), start=1):
        router.add_task(name, own[:10])
        assert router.names == list(samples)[:stage]
        seen = {known: samples[known][10:] for known in router.names}
        assert accuracy(router, seen) == dict.fromkeys(seen, 1.0)
        routes = router.predict(own)
        assert routes.probabilities.shape == (len(own), stage)
        assert routes.probabilities.sum(axis=1) == pytest.approx(1)
        assert (routes.confidence == routes.probabilities.max(axis=1)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_task_alone_gets_everything(kind: type[FeatureRouter], blobs: Blobs) -> None:
    samples, encoder = blobs(1, 3)
    router = kind(encoder)
    router.add_task("task0", samples["task0"][:1])  # a single sample is enough
    routes = router.predict(samples["task0"])
    assert routes.tasks == ["task0"] * 3 and routes.probabilities == pytest.approx(np.ones((3, 1)))
    assert np.isfinite(routes.novelty).all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_resembles_no_task_is_abstained_from(kind: type[FeatureRouter], blobs: Blobs) -> None:
    samples, encoder = blobs(3, 200)
    rng = np.random.default_rng(1)
    foreign = [request(f"foreign{i}") for i in range(100)]
    encoder.vectors |= {sample.id: -np.ones(12) + rng.normal(size=12) for sample in foreign}
    router, never = kind(encoder, abstain=0.02), kind(encoder)
    for name, own in samples.items():
        router.add_task(name, own[:100])
        never.add_task(name, own[:100])
    gone = [task is None for task in router.predict(foreign).tasks]
    mistaken = [task is None for own in samples.values() for task in router.predict(own[100:]).tasks]
    assert np.mean(gone) > 0.98
    assert np.mean(mistaken) < 0.12  # 2 % are asked for, of limits that ten to a hundred samples set
    assert None not in never.predict(foreign).tasks
    routes = router.predict(foreign)
    assert [task is None for task in routes.tasks] == (routes.novelty >= 1).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides_and_bad_input_is_refused(kind: type[FeatureRouter], blobs: Blobs) -> None:
    samples, encoder = blobs(2)

    def trained() -> FeatureRouter:
        router = kind(encoder)
        for name, own in samples.items():
            router.add_task(name, own)
        return router

    one, other = trained(), trained()
    assert (one.predict(samples["task1"]).probabilities == other.predict(samples["task1"]).probabilities).all()
    assert one.predict([]).tasks == [] and one.predict([]).probabilities.shape == (0, 2)
    with pytest.raises(ConfigError, match="task1: is known to the router"):
        one.add_task("task1", samples["task1"])
    with pytest.raises(EmptyTaskError, match="task9: has no sample"):
        one.add_task("task9", [])
    with pytest.raises(EmptyTaskError, match="knows no task"):
        kind(encoder).predict(samples["task0"])
    with pytest.raises(ConfigError, match=r"abstain: is 1\.5"):
        kind(encoder, abstain=1.5)
    encoder.vectors["broken"] = np.full(12, np.nan)
    with pytest.raises(NonFiniteError, match="broken: 1 of 2 requests"):
        one.predict([samples["task0"][0], request("broken")])
    with pytest.raises(NonFiniteError, match="broken: 1 of 1 requests"):
        one.add_task("task9", [request("broken")])
    assert one.names == ["task0", "task1"]  # nothing half-learned stays
    assert one.predict(samples["task0"]).tasks == ["task0"] * 30


def test_exemplars_are_drawn_by_seed_and_id() -> None:
    samples = [request(f"id{i}") for i in range(1000)]
    kept = retain(samples, 10, 0)
    assert len(kept) == 10 and {one.id for one in retain(samples[::-1], 10, 0)} == {one.id for one in kept}
    assert {one.id for one in retain(samples, 10, 1)} != {one.id for one in kept}
    assert len(retain(samples, 0.0125, 0)) == 12 and len(retain(samples, 0.0001, 0)) == 1  # max(1, floor(share N))
    assert len(retain(samples[:3], 10, 0)) == 3


def test_a_new_class_keeps_the_network_it_came_to(blobs: Blobs) -> None:
    """Growing alone changes no logit of the tasks that are there: the released code trains from scratch."""
    samples, encoder = blobs(3)
    router = SwitchNetwork(encoder)
    for name in ("task0", "task1"):
        router.add_task(name, samples[name])
    before = router._weights
    grown = router._grown(before, 3)
    assert [tuple(one.shape) for one in grown] == [(200, 12), (200,), (3, 200), (3,)]
    for one, other in zip(grown, before, strict=True):
        assert torch.equal(one[: len(other)], other)
    assert len(router._rows) == 20  # ten vectors a task, and nothing else is kept


def test_a_request_is_encoded_once(blobs: Blobs) -> None:
    """The released code loads its encoder and encodes every exemplar anew for every batch of every epoch."""
    samples, given = blobs(3)

    class Counting(Given):
        def __call__(self, requests: Sequence[Sample]) -> torch.Tensor:
            seen.extend(one.id for one in requests)
            return super().__call__(requests)

    seen: list[str] = []
    router = SwitchNetwork(Counting(given.vectors), exemplars=10, abstain=0.1)
    for number, (name, own) in enumerate(samples.items(), start=1):
        router.add_task(name, own)
        assert len(seen) == len(set(seen)) == 10 * number  # never the earlier tasks' again
    router.predict(samples["task0"])
    assert len(seen) == 30 + len(samples["task0"])


def test_tasks_weigh_the_same_however_many_exemplars_they_left(blobs: Blobs) -> None:
    """Two tasks that cannot be told apart, one with ten times the exemplars: neither gets all."""
    samples, encoder = blobs(1, 110, spread=1.0)
    router = SwitchNetwork(encoder, exemplars=1.0, hidden=8, steps=100)
    router.add_task("many", samples["task0"][:100])
    router.add_task("few", samples["task0"][100:])
    mean = router.predict(samples["task0"]).probabilities.mean(axis=0)
    assert mean[1] > 0.25  # by counts it would be 0.09


def test_anchors_are_exact_means_in_any_batches(blobs: Blobs) -> None:
    """The released code's counter is bfloat16: from 8192 samples on its mean follows the last batches."""
    samples, encoder = blobs(2, 5000)
    whole, parts = AnchorRouter(encoder), AnchorRouter(encoder)
    for name, own in samples.items():
        whole.add_task(name, own)
        parts.add_task(name, own[:24])
        for start in range(24, len(own), 24):
            parts.update(name, own[start : start + 24])
    for task, own in enumerate(samples.values()):
        mean = np.mean([encoder.vectors[one.id].astype(np.float32) for one in own], axis=0, dtype=np.float64)
        for router in (whole, parts):
            assert router._sums["text"][task] / router._counts["text"][task] == pytest.approx(mean, rel=1e-12)
    with pytest.raises(ConfigError, match="nobody: is no task"):
        parts.update("nobody", samples["task0"])


def test_anchors_are_the_papers_softmax_of_mean_cosines(blobs: Blobs) -> None:
    """A request without pictures is routed by its text, a task without pictures by its texts."""
    samples, encoder = blobs(3, 20)
    rng = np.random.default_rng(3)
    seen = {one.id: rng.normal(size=5) for name in ("task0", "task1") for one in samples[name]}
    blind = {one.id: np.full(5, np.nan) for one in samples["task2"]} | {"task1-7": np.full(5, np.nan)}
    pictures = Given(seen | blind, "pictures")
    router = AnchorRouter(encoder, pictures, temperature=0.2)  # pyright: ignore[reportArgumentType]
    for name, own in samples.items():
        router.add_task(name, own)

    def mean(vectors: dict[str, np.ndarray], own: list[Sample]) -> np.ndarray:
        return np.nanmean([np.float32(vectors[one.id]) for one in own], axis=0, dtype=np.float64)

    def cosine(one: np.ndarray, other: np.ndarray) -> float:
        return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))

    for sample in (samples["task0"][3], samples["task1"][7], samples["task2"][1]):
        similarities = []
        for name, own in samples.items():
            found = [cosine(np.float32(encoder.vectors[sample.id]), mean(encoder.vectors, own))]
            if name != "task2" and np.isfinite(pictures.vectors[sample.id]).all():
                found.append(cosine(np.float32(pictures.vectors[sample.id]), mean(pictures.vectors, own)))
            similarities.append(np.mean(found))
        expected = np.exp(np.array(similarities) / 0.2)
        assert router.predict([sample]).probabilities[0] == pytest.approx(expected / expected.sum(), rel=1e-6)


def test_an_autoencoder_is_untouched_by_later_tasks(blobs: Blobs) -> None:
    samples, encoder = blobs(3)
    router = AutoencoderRouter(encoder)
    router.add_task("task0", samples["task0"])
    coder, limit = [part.clone() for part in router._coders[0]], router._limits[0]
    alone = router.predict(samples["task1"]).novelty
    router.add_task("task1", samples["task1"])
    assert all(torch.equal(one, other) for one, other in zip(coder, router._coders[0], strict=True))
    assert router._limits[0] == limit
    rows = F.normalize(encoder(samples["task1"]), dim=1)
    first, bias, last, offset = (part.double() for part in coder)
    errors = ((rows.double() @ first.T + bias).relu() @ last.T + offset - rows).square().sum(1).numpy()
    assert alone == pytest.approx(errors / limit, rel=1e-4)


def test_centroids_are_compared_without_what_they_share(blobs: Blobs) -> None:
    """A large common part makes all cosines alike; around the mean of the centroids they are not."""
    samples, encoder = blobs(3, 40)
    for vector in encoder.vectors.values():
        vector += 30.0
    router = NearestCentroidRouter(encoder)
    for name, own in samples.items():
        router.add_task(name, own[:20])
    assert accuracy(router, {name: own[20:] for name, own in samples.items()}) == dict.fromkeys(samples, 1.0)
    assert router.predict(samples["task0"]).confidence.min() > 0.9
    anchors = AnchorRouter(encoder)
    for name, own in samples.items():
        anchors.add_task(name, own[:20])
    assert anchors.predict(samples["task0"]).confidence.max() < 0.34  # a third each


def test_the_oracle_is_told() -> None:
    router = OracleRouter()
    assert isinstance(router, Router)
    router.add_task("a", [])
    router.add_task("b", [])
    routes = router.predict([request("1", "b"), request("2", "a"), request("3", "c")])
    assert routes.tasks == ["b", "a", None]
    assert routes.probabilities.tolist() == [[0, 1], [1, 0], [0.5, 0.5]] and routes.novelty.tolist() == [0, 0, 1]
    assert router.predict([]).tasks == []
    with pytest.raises(ConfigError, match="is known"):
        router.add_task("a", [])


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (SwitchNetwork, {"exemplars": 0}),
        (SwitchNetwork, {"exemplars": 1.5}),
        (SwitchNetwork, {"steps": 0}),
        (AnchorRouter, {"temperature": 0}),
        (AutoencoderRouter, {"hidden": -1}),
        (NearestCentroidRouter, {"temperature": -0.1}),
    ],
)
def test_impossible_settings(kind: type[FeatureRouter], settings: dict[str, float]) -> None:
    (name,) = settings
    with pytest.raises(ConfigError, match=f"{name}: is"):
        kind(Given({}), **settings)
