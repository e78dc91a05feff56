"""Every case of both suites."""

from __future__ import annotations

from benchmarks.cases import grad_sketch, less, project, signs, token_scores, whole_pass

CASES = (*project.CASES, *token_scores.CASES, *grad_sketch.CASES, *signs.CASES, *whole_pass.CASES, *less.CASES)
