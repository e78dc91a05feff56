"""The routing study: its tables from rows, its wordings, and that its ways of serving a batch are compared honestly."""

from __future__ import annotations

import pytest
import torch

from adaptinf.data import Sample
from benchmarks.document import fill
from benchmarks.routing import dispatch
from benchmarks.routing.report import markdown
from benchmarks.routing.tasks import WORDINGS, reworded


def rows(accuracy: float = 99.5, changed: int = 0) -> list[dict]:
    found: list[dict] = [
        {"study": "runs", "seed": seed, "accuracy": accuracy + seed, "share": 99.0 + seed}
        | {"compared": 5, "changed": changed}
        for seed in (0, 1)
    ]  # fmt: skip
    found += [{"study": "dispatch", "model": "m", "threads": 2, "a pass for every adapter / ours": 2.99}]
    found += [{"study": "cost", "seed": 0, "route_ms": 1.0, "answer_ms": 40.0, "time_share": 2.5, "flops_share": 0.2}]
    return found


def verdicts(text: str) -> list[str]:
    return [line.rstrip(" |").rpartition(" ")[2] for line in text.splitlines()[2:7]]


def test_goals_are_judged_from_the_rows() -> None:
    assert verdicts(markdown(rows())) == ["yes", "yes", "yes", "no", "yes"]
    assert verdicts(markdown(rows(accuracy=98.0, changed=1))) == ["no", "yes", "no", "no", "yes"]
    assert "100.0 ± 6.4 %, 2 runs" in markdown(rows())  # 12.7 sd / sqrt(2), Student's t of one degree of freedom


def test_the_document_has_a_place_for_the_tables(repository, tmp_path) -> None:
    from benchmarks.routing.__main__ import FIRST, LAST

    document = tmp_path / "routing.md"
    document.write_text((repository / "docs" / "routing.md").read_text())
    fill(document, FIRST, LAST, markdown(rows()))
    assert "| requests routed right" in document.read_text()


def test_wordings_keep_the_words_and_the_answer() -> None:
    sample = Sample.from_instruction("a", "Simplify this.\nA LONG text.", "short", task="t")
    found = {name: reworded(sample, how) for name, how in WORDINGS.items()}
    assert found["as trained"] == sample
    assert found["instruction behind"].prompt == "A LONG text.\nSimplify this."
    assert found["Alpaca's preamble"].prompt.endswith("Simplify this.\nA LONG text.")
    assert found["lower case"].prompt == "simplify this.\na long text."
    assert all((one.id, one.answer, one.task) == ("a", "short", "t") for one in found.values())


def test_the_ways_of_serving_give_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(dispatch, "SHAPES", {"tiny": (32, 48, 2, 4, 2)})
    monkeypatch.setattr(dispatch, "TOKENS", 3)
    monkeypatch.setattr(dispatch, "REPEATS", 1)
    try:
        (row,) = dispatch.measure(threads)
    finally:
        torch.set_num_threads(threads)
    assert row["a pass for every adapter / ours"] > 0 and row["peft adapter_names / ours"] > 0


def test_no_time_is_given_where_the_tokens_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = {
        "a pass for every adapter": lambda: torch.zeros(2),
        "ours": lambda: torch.ones(2),
    }
    monkeypatch.setattr(dispatch, "_ways", lambda *shape: ways)
    with pytest.raises(RuntimeError, match="ours gives other tokens"):
        list(dispatch.measure(torch.get_num_threads()))
