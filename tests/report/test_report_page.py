"""The HTML report, read back with an HTML parser and compared with what was written into the run directory."""

from __future__ import annotations

import json
import re
import shutil

import lxml.html
import numpy as np
import PIL.Image
import pytest

from adaptinf.errors import ArtefactError
from adaptinf.report import build_comparison, build_report
from adaptinf.report.metrics import CATALOGUE, value_of
from adaptinf.report.reading import read_run

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">" onload="x" </title></svg> {{ 7*7 }} \u202egnorw'


def parse(path):
    return lxml.html.fromstring(path.read_text(encoding="utf-8"))


def text_of(node) -> str:
    return " ".join(node.text_content().split())


def kinds(document) -> set[str]:
    """Every element and attribute that occurs."""
    return {node.tag for node in document.iter() if isinstance(node.tag, str)} | {
        f"@{name}" for node in document.iter() for name in node.attrib
    }


def section(document, heading: str, level: str = "h2"):
    """The element that follows a heading, past its notes."""
    node = document.xpath(f"//{level}[contains(., $heading)]", heading=heading)[0].getnext()
    while "note" in (node.get("class") or ""):
        node = node.getnext()
    return node


def test_every_score_stands_in_its_cell(make_run):
    run = make_run()
    table = parse(build_report(run.path)).xpath("//table[contains(@class, 'heat')]")[0]
    rows = table.xpath("./tbody/tr")
    assert [text_of(head) for head in table.xpath("./thead/tr/th")][2:-1] == [
        f"{t}{i}" for i, t in enumerate(run.tasks, 1)
    ]
    assert len(rows) == len(run.tasks) + 1
    for stage, row in enumerate(rows):
        cells = row.xpath("./td")
        assert [text_of(cell) for cell in cells[:-1]] == [f"{100 * score:.1f}" for score in run.matrix[stage]]
        outlined = [place for place, cell in enumerate(cells) if "diagonal" in cell.get("class")]
        assert outlined == ([] if stage == 0 else [stage - 1])
        seen = run.matrix[stage, : stage or None]
        assert text_of(cells[-1]) == f"{100 * seen.mean():.1f}"
        assert f"{run.matrix[stage, 0]:.4f}" in cells[0].get("title")


def test_unmeasured_scores_are_hatched_and_never_zero(make_run):
    run = make_run()
    file = run.path / "metrics.json"
    metrics = json.loads(file.read_text())
    metrics["score_matrix"][1][2] = None
    metrics["metrics"]["forward_transfer"] = None
    file.write_text(json.dumps(metrics))
    document = parse(build_report(run.path))
    cell = document.xpath("//table[contains(@class, 'heat')]/tbody/tr[2]/td[3]")[0]
    assert cell.get("class") == "unmeasured"
    assert text_of(cell) == ""
    assert "not measured" in cell.get("title")
    names = [text_of(head) for head in section(document, "Metrics").xpath("./div[1]//tbody/tr/th")]
    assert "Forgetting" in names
    assert "Forward transfer (FWT)" not in names


def test_every_metric_appears_with_its_number(make_run):
    run = make_run()
    card = section(parse(build_report(run.path)), "Metrics")
    shown = {text_of(row[0]): (text_of(row[1]), text_of(row[2])) for row in card.xpath("./div[1]//tbody/tr")}
    assert shown["Average accuracy"] == (f"{100 * run.metrics['average_accuracy']:.1f}", "%")
    assert shown["Forgetting"] == (f"{100 * run.metrics['forgetting']:.1f}", "points")
    assert shown["Backward transfer (BWT)"] == (
        f"{100 * run.metrics['backward_transfer']:+.1f}".replace("-", "−"),
        "points",
    )
    assert shown["Relative gain"] == (f"{run.metrics['relative_gain_learned']:.1f}", "%")
    assert card.xpath(".//span[text()='Forgetting']")[0].get("title").startswith("mean over j<T")
    listed = {text_of(row[0]) for row in card.xpath(".//details//tbody/tr")}
    assert listed == set(run.metrics)


def test_the_catalogue_names_every_metric_of_the_evaluation(make_run):
    assert {metric.name for metric in CATALOGUE} == set(make_run().metrics)


def test_an_unknown_metric_is_shown_by_its_own_name(make_run):
    run = make_run()
    file = run.path / "metrics.json"
    metrics = json.loads(file.read_text())
    metrics["metrics"] |= {"novel_metric": 0.12345, "novel_words": "high"}
    file.write_text(json.dumps(metrics))
    rows = section(parse(build_report(run.path)), "Metrics").xpath(".//details//tbody/tr")
    shown = {text_of(row[0]): text_of(row[1]) for row in rows}
    assert shown["novel_metric"] == "0.1235"
    assert shown["novel_words"] == "high"


def test_costs_are_those_of_the_stages_and_the_extrapolation_says_so(make_run):
    run = make_run()
    card = section(parse(build_report(run.path)), "What choosing cost")
    choosing = sum(row["features"] + row["selection"] + row["pool"] for row in run.seconds)
    training = sum(row["training"] for row in run.seconds)
    whole = sum(r["training"] / s * p for r, s, p in zip(run.seconds, run.n_selected, run.n_pool, strict=True))
    values = [text_of(node) for node in card.xpath(".//div[@class='value']")]
    for expected, shown in ((choosing + training, values[0]), (whole, values[1])):
        minutes, seconds = re.fullmatch(r"(\d+) min (\d+) s", shown).groups()
        assert abs(int(minutes) * 60 + int(seconds) - expected) <= 0.5
    assert "extrapolated" in text_of(card)
    widths = [
        float(re.search(r"width:([\d.]+)%", s.get("style"))[1])
        for s in card.xpath("(.//div[@class='bars'])[1]//div[@class='track']/span")
    ]
    assert sum(widths[:4]) == pytest.approx(100 * (choosing + training) / whole, abs=0.01)
    assert sum(widths[4:]) == pytest.approx(100, abs=0.01)
    rows = card.xpath(".//table/tbody/tr")
    assert text_of(rows[2][0]) == f"2 · {run.tasks[1]}"
    assert [text_of(cell) for cell in rows[2]][1:4] == [
        f"{n:,}" for n in (run.n_pool[1], run.n_selected[1], run.n_kept[1])
    ]
    assert text_of(rows[2][6]) == f"{run.seconds[1]['training']:.1f} s"


def test_choosing_that_costs_more_than_it_saves_says_so(make_run):
    run = make_run()
    for step in (run.path / "steps").glob("0[1-9]_*"):
        timing = step / "features/timing.json"
        timing.write_text(json.dumps(json.loads(timing.read_text()) | {"seconds": 1000.0}))
    document = parse(build_report(run.path))
    tile = document.xpath("//div[@class='tile'][contains(., 'Time saved on balance')]/div[@class='figure']")[0]
    assert text_of(tile).startswith("−1 h")
    assert "more than the training it saved" in text_of(section(document, "What choosing cost"))


def test_stacked_bars_count_the_selected_of_each_task(make_run):
    run = make_run()
    view = read_run(run.path)
    card = section(parse(build_report(run.path)), "What was selected")
    last = card.xpath("(.//div[@class='bars'])[1]//div[@class='track']")[-1]
    for span, task in zip(last.xpath("./span"), run.tasks, strict=True):
        number = view.steps[-1].selected_by_task[task]
        assert span.get("title").startswith(f"{task}: {number} of {run.n_selected[-1]}")
    assert sum(view.steps[-1].selected_by_task.values()) == run.n_selected[-1]
    assert sum(view.steps[-1].pool_by_task.values()) == run.n_pool[-1]


def test_clusters_show_winner_margin_and_sizes(make_run):
    run = make_run(clusters=6)
    document = parse(build_report(run.path))
    step = read_run(run.path).steps[-1]
    table = document.xpath("//details[contains(., 'clusters')][last()]//table")[0]
    rows = table.xpath("./tbody/tr")
    assert len(rows) == 6
    names = [head.get("title").removeprefix("formula of ") for head in table.xpath("./thead/tr/th")[3:-1]]
    for row, cluster in zip(rows, step.clusters, strict=True):
        assert text_of(row[2]) == f"{cluster.selected} / {cluster.size}"
        won = [name for name, cell in zip(names, row.xpath("./td"), strict=False) if "won" in cell.get("class")]
        assert won == [cluster.scorer]
        second = max(bits for name, bits in cluster.entropies.items() if name != cluster.scorer and not np.isnan(bits))
        assert text_of(row[-1]) == f"{4.5 - second:.2f}"
    assert sum(cluster.size for cluster in step.clusters) == run.n_pool[-1]
    points = document.xpath("//details[.//table]//*[local-name()='path'][@class='dot']")
    assert sum(path.get("d").count("h0") for path in points) == sum(run.n_pool)


def test_how_many_clusters_is_drawn(make_run):
    run = make_run()
    document = parse(build_report(run.path))
    charts = document.xpath("//figure[.//*[contains(@aria-label, 'clusters; 10 were chosen')]]")
    assert len(charts) == len(run.tasks)
    notes = [note.strip() for note in charts[0].xpath(".//*[local-name()='title']/text()")]
    assert notes == [
        "5 clusters: inertia 100",
        "10 clusters: inertia 20, the elbow",
        "15 clusters: inertia 21",
        "20 clusters: inertia 10",
    ]
    curve = charts[0].xpath(".//*[@class='curve']")[0].get("d")
    x, y = np.array([point.split() for point in curve.lstrip("M").split("L")], float).T
    np.testing.assert_allclose((x - x[0]) / (x[-1] - x[0]), [0, 1 / 3, 2 / 3, 1], atol=1e-3)
    np.testing.assert_allclose((y[-1] - y) / (y[-1] - y[0]), [1, 10 / 90, 11 / 90, 0], atol=2e-3)
    chord, depth = ([float(line.get(end)) for end in ("x1", "y1", "x2", "y2")] for line in charts[0].xpath(".//line"))
    assert chord == [x[0], y[0], x[-1], y[-1]]
    np.testing.assert_allclose(depth, [x[1], y[0] + (y[-1] - y[0]) / 3, x[1], y[1]], atol=0.06)
    assert "was taken: 10." in text_of(charts[0].getparent())


def test_where_the_number_of_clusters_was_given_nothing_is_drawn(make_run):
    run = make_run("random_replay")
    assert "were chosen" not in build_report(run.path).read_text(encoding="utf-8")


def test_a_large_map_is_sampled_and_says_so(make_run):
    run = make_run(tasks=("one", "two"), per_task=2500)
    document = parse(build_report(run.path))
    last = document.xpath("//figure[.//*[local-name()='path'][@class='dot']]")[-1]
    drawn = sum(path.get("d").count("h0") for path in last.xpath(".//*[@class='dot']"))
    assert drawn == 3000
    assert f"Drawn: 3,000 of {run.n_pool[1]:,} samples" in text_of(last)


def test_a_baseline_has_no_clusters_and_needs_none(make_run):
    run = make_run("random_replay", prune=False)
    document = parse(build_report(run.path))
    assert "This strategy makes no clusters." in document.text_content()
    assert not document.xpath("//h3[text()='Which score chose']")
    assert "Nothing was dropped at this step" in document.text_content()
    assert not document.xpath("//h3[contains(., 'Kept in the pool')]")


def test_the_gallery_shows_pictures_texts_and_the_duplicate(make_run):
    run = make_run(gallery=3)
    document = parse(build_report(run.path))
    gallery = document.xpath("//details[.//article]")[-1]
    groups = {text_of(h): h.getnext().xpath("./article") for h in gallery.xpath(".//h3")}
    assert [len(cards) for cards in groups.values()] == [3, 3, 3, 3]
    dropped = groups["Dropped from the pool for good"][0]
    assert "resembles (similarity 0." in text_of(dropped)
    assert len(dropped.xpath(".//img")) == 2
    assert all(image.get("src").startswith("data:image/png;base64,iVBOR") for image in gallery.xpath(".//img"))
    answers = [node for node in document.xpath("//div[@class='answer']") if node.text == "الفنلندية"]
    assert answers
    assert answers[0].get("dir") == "auto"
    assert any("緑色" in node.text_content() for node in document.xpath("//div[@class='answer']"))


def test_an_empty_gallery(make_run):
    assert "The gallery is empty" not in parse(build_report(make_run("a").path)).text_content()
    document = parse(build_report(make_run("b", gallery=0).path))
    assert not document.xpath("//article")
    assert "The gallery is empty." in document.text_content()


def test_bytes_that_are_no_picture_are_not_embedded(make_run, monkeypatch):
    monkeypatch.setattr(PIL.Image.Image, "save", lambda _, file, kind: file.write(b"<svg onload=alert(1)>"))
    document = parse(build_report(make_run().path))
    assert not document.xpath("//img")
    assert "picture cannot be shown" in document.text_content()


def test_hostile_texts_stay_texts(make_run):
    task = HOSTILE.replace("/", "∕")  # a task's name is a folder's name
    clean = make_run("clean", tasks=("plain", "other"))
    run = make_run(
        "hostile",
        strategy=HOSTILE,
        tasks=(task, "other"),
        texts={task: (HOSTILE, HOSTILE), "other": (HOSTILE, HOSTILE)},
        quarantine=((HOSTILE, 3, HOSTILE),),
    )
    (run.path / "config.yaml").write_text(json.dumps({"model": {"name": HOSTILE}, "strategy": HOSTILE}))
    metrics = json.loads((run.path / "metrics.json").read_text())
    metrics["metrics"][HOSTILE] = HOSTILE
    metrics["counters"][HOSTILE] = HOSTILE
    metrics["versions"][HOSTILE] = HOSTILE + "\ud800"
    (run.path / "metrics.json").write_text(json.dumps(metrics))
    twin = make_run("twin", tasks=("plain", "other"))
    for page, harmless in (
        (build_report(run.path), build_report(clean.path)),
        (
            build_comparison([run.path, clean.path], run.path / "two.html"),
            build_comparison([clean.path, twin.path], clean.path / "two.html"),
        ),
    ):
        document = parse(page)
        assert HOSTILE in document.text_content()
        assert "49" not in text_of(document.xpath("//h1")[0])
        assert len(document.xpath("//script")) == 1
        assert kinds(document) == kinds(parse(harmless))
        assert all(image.get("src").startswith("data:") for image in document.xpath("//img"))


def test_nothing_is_loaded_from_outside(make_run):
    a, b = make_run("paper"), make_run("random_replay")
    for page in (build_report(a.path), build_comparison([a.path, b.path], a.path.parent / "c.html")):
        source = page.read_text(encoding="utf-8")
        document = parse(page)
        assert not document.xpath("//link | //iframe | //object | //embed | //base | //@srcset")
        for reference in document.xpath("//@src | //@href"):
            assert reference.startswith(("data:image/png;base64,", "#"))
        assert "url(" not in source
        assert "@import" not in source
        assert not re.search(r"https?://", source)
        policy = document.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")[0]
        assert "default-src 'none'" in policy


def test_links_lead_to_something_and_ids_are_unique(make_run):
    a, b = make_run("paper"), make_run("random_replay")
    for page in (build_report(a.path), build_comparison([a.path, b.path], a.path.parent / "c.html")):
        document = parse(page)
        ids = document.xpath("//@id")
        assert len(ids) == len(set(ids))
        assert {link.lstrip("#") for link in document.xpath("//@href")} <= set(ids)


@pytest.mark.parametrize("arrows", [0, 1, 2, 3, 4, 5, 6, 9])
def test_a_run_killed_after_any_arrow_is_shown_as_far_as_it_is(make_run, arrows):
    run = make_run(arrows=arrows)
    if arrows == 0:
        shutil.rmtree(run.path / "steps")
    document = parse(build_report(run.path))
    banner = text_of(document.xpath("//p[@class='banner']")[0])
    evaluated = (arrows - 1 + 1) // 5 if arrows else 0
    assert banner.startswith(f"This run is not finished: {evaluated} of 5 steps")
    assert "Metrics are written when the run is finished." in document.text_content()
    for task in run.tasks:
        assert task in document.text_content()


def test_half_written_artefacts_are_ignored(make_run):
    run = make_run(arrows=6)
    (run.path / "steps/02_digits/selection").mkdir(parents=True)
    (run.path / "steps/02_digits/selection/decisions.parquet").write_bytes(b"PAR1 cut short")
    assert read_run(run.path).steps[-1].decisions is None
    build_report(run.path)


def test_a_finished_run_has_no_banner(make_run):
    assert not parse(build_report(make_run().path)).xpath("//p[@class='banner']")


@pytest.mark.parametrize("n", [1, 14])
def test_any_number_of_tasks(make_run, n):
    names = tuple(f"{'a-very-long-name-of-a-task ' * 3}{i}" for i in range(n))
    run = make_run(tasks=names, per_task=20, clusters=2)
    document = parse(build_report(run.path))
    assert len(document.xpath("(//table[contains(@class, 'heat')])[1]/tbody/tr")) == n + 1
    finals = {text_of(row[0]): text_of(row[-3]) for row in section(document, "Task by task").xpath(".//tbody/tr")}
    for number, name in enumerate(names, 1):
        assert finals[f"{number}{name}"] == f"{100 * run.matrix[-1, number - 1]:.1f}"
    assert len(document.xpath("//div[@class='small']/figure")) == n


def test_multitask_has_one_trained_step(make_run):
    run = make_run("multitask", tasks=("a", "b", "c"))
    for task in ("01_a", "02_b"):
        shutil.rmtree(run.path / "steps" / task)
    metrics = json.loads((run.path / "metrics.json").read_text())
    metrics["score_matrix"][1] = metrics["score_matrix"][2] = [None] * 3
    (run.path / "metrics.json").write_text(json.dumps(metrics))
    document = parse(build_report(run.path))
    rows = document.xpath("(//table[contains(@class, 'heat')])[1]/tbody/tr")
    assert all(cell.get("class").startswith("unmeasured") for cell in rows[1].xpath("./td")[:-1])
    assert text_of(rows[3].xpath("./td")[0]) == f"{100 * run.matrix[3, 0]:.1f}"


def test_quarantine_and_counters(make_run):
    lines = tuple((f"train-{i}.jsonl", i, "picture is truncated") for i in range(1, 31))
    document = parse(build_report(make_run(quarantine=lines).path))
    card = section(document, "Data quality")
    assert "30 records could not be used and were left out" in text_of(card)
    assert "The first 8 of 30; all are in quarantine.jsonl." in text_of(card)
    counters = {
        text_of(row[0]): text_of(row[1])
        for row in card.xpath(".//h3[text()='Counters']/following-sibling::table[1]//tr")
    }
    assert counters["quarantined"] == "30"
    assert counters["dropped"] == "5"
    assert counters["selection: tail fills"] == "15"
    assert "features.on_nonfinite" in text_of(card)
    assert "loss is not finite" in text_of(card)


def test_the_comparison_marks_the_best_of_each_metric(make_run):
    a, b = make_run("random_replay", quality=0.7), make_run("paper", quality=0.9)
    document = parse(build_comparison([a.path, b.path], a.path.parent / "comparison.html"))
    assert text_of(document.xpath("//h1")[0]) == "random_replay against paper"
    card = section(document, "Metrics")
    by_label = {metric.label: metric for metric in CATALOGUE}
    views = read_run(a.path), read_run(b.path)
    rows = card.xpath("./div[1]//tbody/tr")
    assert len(rows) >= 9
    for row in rows:
        metric = by_label[text_of(row[0])]
        values = [value_of(view, metric.name) for view in views]
        best = int(np.argmax(values) if metric.higher else np.argmin(values))
        assert ["best" in row[1].get("class"), "best" in row[2].get("class")] == [best == 0, best == 1]
        assert [text_of(row[1]), text_of(row[2])] == [metric.text(value) for value in values]
    finals = section(document, "Final score of each task").xpath(".//tbody/tr")
    for row, j in zip(finals, range(5), strict=True):
        assert [text_of(cell) for cell in row[2:]] == [f"{100 * run.matrix[-1, j]:.1f}" for run in (a, b)]
    chart = document.xpath("//div[@class='wide']//*[local-name()='svg']")[0]
    assert len(chart.xpath(".//*[@class='curve']")) == 2
    assert len(document.xpath("//section[@class='run']")) == 2


def test_the_comparison_warns_of_runs_that_do_not_compare(make_run):
    a, b = make_run("paper"), make_run("random_replay", tasks=("shapes", "digits"), arrows=8)
    document = parse(build_comparison([a.path, b.path], a.path.parent / "c.html"))
    banners = [text_of(node) for node in document.xpath("//p[@class='banner']")]
    assert banners[0].startswith("random_replay is not finished: 1 of 2 steps")
    assert "different streams" in banners[1]


def test_two_seeds_of_one_strategy_are_told_apart(make_run):
    a, b = make_run("s0", strategy="paper", seed=0), make_run("s1", strategy="paper", seed=1)
    document = parse(build_comparison([a.path, b.path], a.path.parent / "c.html"))
    assert text_of(document.xpath("//h1")[0]) == "paper (seed 0) against paper (seed 1)"


def test_the_same_run_makes_the_same_bytes(make_run):
    run = make_run()
    first = build_report(run.path).read_bytes()
    assert build_report(run.path, run.path / "again.html").read_bytes() == first


def test_the_report_reads_artefacts_only(make_run):
    run = make_run()
    before = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    page = build_report(run.path)
    assert page == run.path / "report.html"
    assert {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file() and file != page} == before


def test_a_directory_that_is_no_run(tmp_path):
    with pytest.raises(ArtefactError, match="is not a run directory"):
        build_report(tmp_path / "nowhere")
    with pytest.raises(ArtefactError, match="at least one"):
        build_comparison([], tmp_path / "c.html")


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("metrics.json", b"{", "cannot be read as JSON"),
        ("metrics.json", b"[]", "is not a JSON object"),
        ("config.yaml", b"a: [", "cannot be read as YAML"),
        ("quarantine.jsonl", b"not json\n", "no JSON object"),
        ("steps/01_shapes/selection/decisions.parquet", b"PAR1", "cannot be read as Parquet"),
    ],
)
def test_a_damaged_file_is_named(make_run, file, content, problem):
    run = make_run()
    (run.path / file).write_bytes(content)
    with pytest.raises(ArtefactError, match=problem) as error:
        build_report(run.path)
    assert str(run.path / file) in str(error.value)


def test_a_missing_column_is_named(make_run):
    import pyarrow as pa

    from adaptinf.store import write_table

    run = make_run()
    write_table(run.path / "steps/01_shapes/selection/decisions.parquet", pa.table({"id": ["a"], "task": ["shapes"]}))
    with pytest.raises(ArtefactError, match="has no column 'cluster'"):
        build_report(run.path)
