"""Windows and batches: every sample once, within the limits, halved where memory ends."""

from __future__ import annotations

import pytest
import torch

from adaptinf.capture.batching import CPU_TOKENS, Batching, next_tokens, windows
from adaptinf.errors import SampleTooLongError
from adaptinf.models import Encoded

CPU = torch.device("cpu")


def sample(name: str, tokens: int, bytes_: int = 0) -> Encoded:
    extras = {"pixel_values": torch.zeros(bytes_, dtype=torch.uint8)} if bytes_ else {}
    return Encoded(name, torch.zeros(tokens, dtype=torch.int64), torch.zeros(tokens, dtype=torch.int64), extras, 0)


def test_windows_hold_so_many_bytes_in_order() -> None:
    made = [sample(str(i), 2, size) for i, size in enumerate([5, 5, 1, 20, 3, 0, 7])]
    found = list(windows(iter(made), limit=10))
    assert [[one.id for one in window] for window in found] == [["0", "1"], ["2"], ["3"], ["4", "5", "6"]]
    assert list(windows(iter([]))) == []


def test_windows_are_encoded_as_they_are_needed() -> None:
    encoded: list[int] = []

    def each():
        for i in range(100):
            encoded.append(i)
            yield sample(str(i), 2, 10)

    next(windows(each(), limit=30))
    assert len(encoded) == 4


@pytest.mark.parametrize("tokens", [1, 7, 40, 10_000])
def test_every_sample_has_its_turn_within_the_budget(tokens: int) -> None:
    lengths = [3, 9, 1, 9, 4, 20, 2, 2]
    made = [sample(str(i), n) for i, n in enumerate(lengths)]
    seen: list[int] = []
    for indices, names in Batching(tokens, CPU).run(made, lambda batch: [one.id for one in batch]):
        assert names == [str(i) for i in indices]
        sizes = [lengths[i] for i in indices]
        assert len(indices) == 1 or max(sizes) * len(sizes) <= tokens
        seen += indices
    assert sorted(seen) == list(range(8)) and [lengths[i] for i in seen] == sorted(lengths, reverse=True)


def test_out_of_memory_halves_this_batch_and_those_after_it() -> None:
    made = [sample(str(i), 4) for i in range(20)]
    sizes: list[int] = []

    def limited(batch: list[Encoded]) -> int:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("pretended")
        return len(batch)

    batching = Batching(32, CPU)
    assert sum(count for _, count in batching.run(made, limited)) == 20
    assert sizes[:4] == [8, 4, 2, 2] and set(sizes[7:]) == {2} and batching.tokens == 8
    with pytest.raises(SampleTooLongError, match=r"3: its 4 tokens do not fit in memory even alone"):
        list(Batching(4, CPU).run(made[3:4], lambda batch: limited(batch * 3)))


def test_auto_is_a_fixed_number_on_a_cpu() -> None:
    batching = Batching("auto", CPU)
    list(batching.run([sample("a", 10)], len))
    assert batching.tokens == CPU_TOKENS


def test_the_next_batch_is_as_large_as_memory_allows() -> None:
    assert next_tokens(4096, 4000, taken=100, free=1000) == 4 * 4096  # never more than four times as large
    assert next_tokens(4096, 4000, taken=100, free=200) == 5600
    assert next_tokens(4096, 4000, taken=1000, free=500) == 1400
    assert next_tokens(4096, 100, taken=1000, free=500) == 4096  # a small batch tells nothing
    assert next_tokens(4, 4, taken=1 << 40, free=1) == 1
