"""Every case of both suites."""

from __future__ import annotations

from benchmarks.cases import (
    grad_gram,
    grad_sketch,
    grad_sketch_embedding,
    grad_sketch_lora,
    kmeans,
    kmeans_gpu,
    kmeans_start,
    less,
    project,
    semdedup,
    signs,
    token_scores,
    whole_pass,
)

CASES = (
    *whole_pass.CASES,
    *less.CASES,
    *project.CASES,
    *token_scores.CASES,
    *grad_sketch.CASES,
    *grad_sketch_lora.CASES,
    *grad_sketch_embedding.CASES,
    *grad_gram.CASES,
    *semdedup.CASES,
    *signs.CASES,
    *kmeans.CASES,
    *kmeans_gpu.CASES,
    *kmeans_start.CASES,
)
