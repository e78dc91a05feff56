"""Group the samples of features into pseudo-skills by k-means on their gradient sketches."""

from __future__ import annotations

import argparse
from pathlib import Path

from adaptinf.cli.pool import add_features, output_file, read_features
from adaptinf.cli.settings import add_settings, read_settings
from adaptinf.errors import ArtefactError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_features(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("clusters.parquet"), help="Parquet file of id, task and cluster"
    )
    add_settings(parser, "seed", "selection.n_clusters", "selection.backend")


def execute(arguments: argparse.Namespace) -> int:
    config = read_settings(arguments)
    features, tasks = read_features(arguments.features)
    if features.sketch is None:
        raise ArtefactError(
            "has no sketches to cluster", item=str(arguments.features[0]), remedy="extract with --strategy paper"
        )

    import pyarrow as pa

    from adaptinf.selection.cluster import cluster, elbow
    from adaptinf.store import write_table

    settings = config.selection
    found = cluster(features.sketch, settings.n_clusters, seed=config.seed, backend=settings.backend)
    columns = {"id": pa.array(features.ids, pa.string()), "task": pa.array(tasks, pa.string()), "cluster": found.labels}
    write_table(output_file(arguments.out), pa.table(columns))
    for k, inertia in found.elbow:
        print(f"{k:4} clusters: inertia {inertia:.6g}{', the elbow' if k == elbow(found.elbow) else ''}")
    print(f"{len(tasks)} samples in {found.k} clusters of {', '.join(map(str, found.sizes))}: {arguments.out}")
    return 0
