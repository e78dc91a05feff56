"""Remove near-duplicates from files of embeddings (npy, Parquet, safetensors)."""

from __future__ import annotations

import argparse
from pathlib import Path

from adaptinf.cli.pool import output_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", metavar="FILE", type=Path, nargs="+", help="matrices [N, d] of float16, float32 or float64"
    )
    parser.add_argument(
        "--eps", type=float, required=True, help="remove where the cosine to another row exceeds 1 - EPS"
    )
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


def execute(arguments: argparse.Namespace) -> int:
    import pyarrow as pa

    from adaptinf.data import read_embeddings
    from adaptinf.selection import dedup
    from adaptinf.store import write_table

    embeddings = read_embeddings(arguments.files, arguments.name)
    found = dedup(
        embeddings.rows,
        arguments.eps,
        clusters=arguments.clusters,
        keep=arguments.keep,
        rank=arguments.rank,
        seed=arguments.seed,
    )
    original = pa.array(found.duplicate_of, mask=found.kept)
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

        title = f"{', '.join(path.name for path in arguments.files)}: near-duplicates at eps {arguments.eps:g}"
        print(f"report: {build_dedup_report(table, title, arguments.eps, output_file(arguments.report))}")
    return 0
