"""Every case of both suites."""

from __future__ import annotations

from benchmarks.cases import grad_sketch, project, signs, token_scores

CASES = (*project.CASES, *token_scores.CASES, *grad_sketch.CASES, *signs.CASES)
