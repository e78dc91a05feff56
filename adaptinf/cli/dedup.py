"""Remove near-duplicates from files of embeddings (npy, Parquet, safetensors)."""

from __future__ import annotations

import argparse
from pathlib import Path

from adaptinf.cli.pool import output_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", metavar="FILE", type=Path, nargs="+", help="matrices [N, d] of float16, bfloat16, float32 or float64"
    )
    rule = parser.add_mutually_exclusive_group(required=True)
    rule.add_argument("--eps", type=float, help="remove where the cosine to another row exceeds 1 - EPS")
    rule.add_argument(
        "--budget", type=_number, help="keep so many rows (a whole number), or such a share of them (0.5)"
    )
    parser.add_argument("--per-cluster", action="store_true", help="keep the budget in each cluster")
    parser.add_argument("--keep", default="greedy", help="greedy (default), reference (SemDeDup's rule) or components")
    parser.add_argument(
        "--rank", default="given", help="which of two stays: given (the first, default), hard or easy (by centroid)"
    )
    parser.add_argument("--clusters", type=int, help="compare inside so many clusters (default: the root of the rows)")
    parser.add_argument("--name", default="embedding", help="column of Parquet, tensor of safetensors (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of k-means (%(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("dedup.parquet"), help="Parquet file of id, cluster and decision (%(default)s)"
    )
    parser.add_argument("--report", type=Path, metavar="HTML", help="also write one HTML page of what was found")


def _number(text: str) -> int | float:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise argparse.ArgumentTypeError(f"{text!r} is neither a count (200) nor a share (0.5)")


def execute(arguments: argparse.Namespace) -> int:
    import pyarrow as pa

    from adaptinf.data import read_embeddings
    from adaptinf.selection import dedup
    from adaptinf.store import write_table

    embeddings = read_embeddings(arguments.files, arguments.name)
    found = dedup(
        embeddings.rows,
        arguments.eps,
        budget=arguments.budget,
        per_cluster=arguments.per_cluster,
        clusters=arguments.clusters,
        keep=arguments.keep,
        rank=arguments.rank,
        seed=arguments.seed,
    )
    original = pa.array(found.duplicate_of, mask=found.duplicate_of < 0)
    table = pa.table(
        {
            "id": embeddings.ids,
            "cluster": found.cluster,
            "kept": found.kept,
            "duplicate_of": embeddings.ids.take(original),
            "max_similarity": found.max_similarity,
        }
    )
    write_table(output_file(arguments.out), table)
    print(f"{found.kept.sum()} of {len(table)} rows kept: {arguments.out}")
    if arguments.report:
        from adaptinf.report import build_dedup_report

        rule = f"cosine above {1 - arguments.eps:g}" if arguments.eps is not None else f"budget {arguments.budget:g}"
        if arguments.per_cluster:
            rule += " in each cluster"
        title = f"{', '.join(path.name for path in arguments.files)}: near-duplicates"
        print(f"report: {build_dedup_report(table, title, rule, output_file(arguments.report))}")
    return 0
