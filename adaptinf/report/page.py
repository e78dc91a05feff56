"""One self-contained HTML file: style, script and pictures inside, nothing loaded from anywhere."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from adaptinf.errors import ArtefactError
from adaptinf.report import charts, colours, compare, costs, gallery, metrics, tables, units, wording
from adaptinf.report.compare import Chapter
from adaptinf.report.reading import read_run
from adaptinf.report.text import labels
from adaptinf.store import replace_file


def build_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write the report of one run and return its place, by default ``report.html`` in the run directory.

    It reads only the run's artefacts, never the data. An unfinished run is shown as far as it is, and says so.

    Raises:
        ArtefactError: the directory is no run directory, or one of its files cannot be read.
    """
    run = read_run(run_dir)
    page = _render(
        [Chapter(run, run.strategy, 0)],
        title=wording.run_title(run),
        lead=wording.run_lead(run),
        facts=wording.facts(run),
        tiles=wording.tiles(run),
    )
    return write_page(page, Path(out) if out is not None else Path(run_dir) / "report.html")


def build_comparison(run_dirs: Sequence[Path], out: Path) -> Path:
    """Write one page that sets several runs side by side and then shows each; returns ``out``. One run gets its report.

    Raises:
        ArtefactError: no directory is given, one is no run directory, or a file cannot be read.
    """
    if not run_dirs:
        raise ArtefactError("has no run", item="comparison", remedy="give at least one run directory")
    if len(run_dirs) == 1:
        return build_report(run_dirs[0], out)
    runs = [read_run(directory) for directory in run_dirs]
    names = labels(runs)
    page = _render(
        [Chapter(run, name, place) for place, (run, name) in enumerate(zip(runs, names, strict=True))],
        title=" against ".join(names) if len(names) < 4 else f"{len(names)} runs compared",
        lead=wording.comparison_lead(runs, names),
        facts=wording.shared_facts(runs),
        tiles=wording.comparison_tiles(runs, names),
    )
    return write_page(page, Path(out))


def _render(chapters: list[Chapter], **words: Any) -> str:
    warnings = wording.warnings_of([chapter.run for chapter in chapters], [chapter.label for chapter in chapters])
    return render_page("page.html.j2", chapters=chapters, warnings=warnings, **words)


def render_page(template: str, **words: Any) -> str:
    """A template with the style and the script that all pages share."""
    environment = _environment()
    script = _asset(environment, "script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(
        style=_asset(environment, "style.css.j2"), script=script, script_hash=f"sha256-{digest}", **words
    )


@functools.cache
def _environment() -> jinja2.Environment:
    """The templates may call the functions of this package's modules by name, and print numbers by its filters."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("adaptinf.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for module in (charts, colours, compare, costs, gallery, metrics, tables, units, wording):
        environment.globals[module.__name__.rpartition(".")[2]] = module
    numbers = (units.bare_percent, units.count, units.decimal, units.duration, units.flops, units.percent, units.points)
    for function in (gallery.excerpt, *numbers):
        environment.filters[function.__name__] = function
    return environment


def _asset(environment: jinja2.Environment, name: str) -> Markup:
    """A file of this package: its characters are ours, so they are not escaped."""
    return Markup(environment.get_template(name).render())  # noqa: S704


def write_page(page: str, out: Path) -> Path:
    """Write an HTML file durably and return its place."""
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(out, page.encode("utf-8", errors="replace"))
    return out
