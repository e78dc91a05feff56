"""Scores of answers, the evaluation of a model on tasks, and the metrics of a whole stream."""

from __future__ import annotations

from adaptinf.evaluation.continual import continual_metrics
from adaptinf.evaluation.evaluate import (
    TaskResult,
    evaluate_stream,
    evaluate_task,
    read_results,
    summarise,
    write_results,
)
from adaptinf.evaluation.metrics import corpus_bleu, metric_names, metric_versions, register_metric, score

__all__ = [
    "TaskResult",
    "continual_metrics",
    "corpus_bleu",
    "evaluate_stream",
    "evaluate_task",
    "metric_names",
    "metric_versions",
    "read_results",
    "register_metric",
    "score",
    "summarise",
    "write_results",
]
