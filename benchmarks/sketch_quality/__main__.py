"""``python -m benchmarks.sketch_quality --data BUNDLE``: inner products, ranks and neighbours of sketched gradients of
SmolLM2-135M on real records, against the exact ones. Writes JSON and the table of docs/measured-facts.md.

Needs the extra ``smollm2``. Per-sample gradients of the mean answer-token loss, float32: of four weights of three
layers, of fresh LoRA adapters of these layers (their B; A has no gradient yet), and of all Linear weights of all layers
(the tied embedding and the norms are left out). Every kind of sketch is the library's own matrix; the iid value is the
exact law of Gaussian rows, and at k = 1024 also dense signs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from adaptinf.config import DataConfig, ModelConfig, RunConfig
from adaptinf.data import load_stream
from adaptinf.models import Encoded, LanguageModel, load_model
from benchmarks.sketch_quality.gradients import Factors, layers
from benchmarks.sketch_quality.targets import Target

TASKS = (
    "p3_qa", "p3_generation", "p3_paraphrase", "self_instruct_seed", "gsm8k", "bbh", "esnli_explain",
    "onestop_simplify", "question_generation", "haiku", "covidfact", "headline_constraint",
)  # fmt: skip
LAYERS = (7, 15, 22)
WEIGHTS = ("q_proj", "o_proj", "down_proj", "up_proj")
KS, MODEL_KS, DENSE = (1024, 4096), (4096, 8192), (1024,)
RANK, ALPHA = 8, 32.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sketch_quality", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data bundle")
    parser.add_argument("--records", type=int, default=18, help="records of each of the twelve tasks")
    parser.add_argument("--max-tokens", type=int, default=192, help="longer records are left out")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--part", choices=["layers", "model", "both"], default="both", help="the whole model takes most of the time"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/sketch_quality/smollm2-135m.json"))
    options = parser.parse_args()
    begun = time.monotonic()
    lm = load_model(ModelConfig(name="smollm2-135m", max_length=options.max_tokens), cache=RunConfig().cache_dir)
    samples = read(lm, options.data, options.records)
    facts = {
        "model": lm.name,
        "records": len(samples),
        "tokens": sum(len(sample.input_ids) for sample in samples),
        "tasks": TASKS,
        "torch": torch.__version__,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict] = []
    for more in measure(
        lm, samples, options.seeds, options.part
    ):  # what is measured is kept, should the rest not finish
        rows += more
        facts["seconds"] = round(time.monotonic() - begun)
        options.out.write_text(json.dumps({"facts": facts, "rows": rows}, indent=1) + "\n")
        options.out.with_suffix(".md").write_text(markdown(rows))
    print(json.dumps(facts), markdown(rows), sep="\n\n")


def read(lm: LanguageModel, data: Path, each: int) -> list[Encoded]:
    """So many records of every task that fit the model's length, the first by a hash of their ids."""
    config = DataConfig(source="bundle", root=str(data), order=list(TASKS), train_limit=6 * each, test_limit=1)
    found = []
    for task in load_stream(config, seed=0, quarantine=None):
        encoded, _ = lm.encoder.encode_all(task.train, on_error="drop")
        if len(encoded) < each:
            raise ValueError(f"{task.name} has {len(encoded)} records of at most {lm.encoder.max_length} tokens")
        found += encoded[:each]
    return found


def measure(lm: LanguageModel, samples: list[Encoded], seeds: int, part: str) -> Iterator[list[dict]]:
    """Rows of measures (see :meth:`Target.results`) as they come."""
    whole = [Target("model", len(samples), MODEL_KS, seeds)] if part != "layers" else []
    for index, weights in layers(lm, samples):
        begun = time.monotonic()
        chosen = index in LAYERS and part != "model"
        adapters = Target(f"layer {index} lora", len(samples), KS, seeds, dense=DENSE)
        for weight in weights:
            module = weight.name.split(".")[-2]
            own = [Target(f"layer {index} {module}", len(samples), KS, seeds, dense=DENSE)]
            own *= chosen and module in WEIGHTS
            feed(weight, whole + own)
            if chosen:
                feed(weight.lora_at_start(RANK, ALPHA), [adapters])
            yield from (list(target.results()) for target in own)
        if chosen:
            yield list(adapters.results())
        print(f"layer {index}: {time.monotonic() - begun:.0f} s", flush=True)
    yield from (list(target.results()) for target in whole)


def feed(weight: Factors, targets: list[Target]) -> None:
    if not targets:
        return
    for rows, entries in weight.blocks():
        gram = (entries.T @ entries).double().numpy()
        for target in targets:
            target.add_block(weight, rows, entries, gram)
    for target in targets:
        target.add(weight)


def markdown(rows: list[dict]) -> str:
    """Error / Spearman / recall, means over layers and seeds; a line for each kind of target and k."""
    groups: dict[tuple[str, int], dict[str, list[dict]]] = {}
    for row in rows:
        groups.setdefault((row["target"].split()[-1], row["k"]), {}).setdefault(row["kind"], []).append(row)
    kinds = list(dict.fromkeys(kind for group in groups.values() for kind in group))
    lines = [f"| gradient | k | {' | '.join(kinds)} |", f"|---|---|{'---|' * len(kinds)}"]
    for (target, k), group in groups.items():
        cells = [_cell(group[kind]) if kind in group else "" for kind in kinds]
        lines.append(f"| {target} | {k} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(rows: list[dict]) -> str:
    error, spearman, recall = (np.mean([row[key] for row in rows]) for key in ("error", "spearman", "recall"))
    return f"{error:.2f} / {spearman:.3f} / {recall:.3f}"


if __name__ == "__main__":
    main()
