"""What a route costs beside an answer: a small model routes for a larger one, as SwitchCIT means it."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import GenerationConfig

from adaptinf.config import ModelConfig
from adaptinf.models import load_model
from adaptinf.routing.configured import ConfiguredRouting
from benchmarks.routing.tasks import MODEL, configuration, stream

LARGE, TOKENS, REQUESTS = "smollm2-135m", 32, 10


def measure(data: Path, seed: int, cache: Path, threads: int) -> dict[str, Any]:
    """Median time of routing one request by the switch network over stories260K's sketches, in percent of the median
    time in which SmolLM2-135M generates ``TOKENS`` tokens after the same prompt; and the same of counted operations."""
    torch.set_num_threads(threads)
    eye = load_model(ModelConfig(name=str(data / MODEL), on_long="drop"), cache=cache)
    large = load_model(ModelConfig(name=LARGE, max_length=1024), cache=cache)
    tasks = stream(data, seed)
    router = ConfiguredRouting(configuration(data, seed), eye, {}).new()
    for task in tasks:
        router.add_task(task.name, task.train)
    fitting = [one for task in tasks for one in task.test if not eye.encoder.encode_all([one], on_error="drop")[1]]
    requests = fitting[:: len(fitting) // REQUESTS][:REQUESTS]
    route, answer, route_flops, answer_flops = [], [], [], []
    for request in [requests[0], *requests]:
        spent, started = router.flops, time.perf_counter()
        router.predict([request])
        route.append(time.perf_counter() - started)
        route_flops.append(router.flops - spent)
        prompt = large.encoder.encode_prompt(request)
        batch = large.to_device(large.encoder.collate([prompt]))
        length = GenerationConfig(do_sample=False, max_new_tokens=TOKENS, min_new_tokens=TOKENS, pad_token_id=0)
        started = time.perf_counter()
        large.base.generate(**batch, generation_config=length)
        answer.append(time.perf_counter() - started)
        answer_flops.append(large.flops([len(prompt.input_ids) + TOKENS]))
    return {
        "study": "cost",
        "seed": seed,
        "threads": threads,
        "route_ms": 1000 * median(route[1:]),
        "answer_ms": 1000 * median(answer[1:]),
        "time_share": 100 * median(r / a for r, a in zip(route[1:], answer[1:], strict=True)),
        "flops_share": 100 * median(r / a for r, a in zip(route_flops[1:], answer_flops[1:], strict=True)),
    }
