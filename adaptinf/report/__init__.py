"""The report of a run, or of several side by side: one self-contained HTML file, or a table for the terminal."""

from __future__ import annotations

from adaptinf.report.dedup import build_dedup_report
from adaptinf.report.page import build_comparison, build_report
from adaptinf.report.reading import read_run
from adaptinf.report.run_view import RunView
from adaptinf.report.text import format_table

__all__ = ["RunView", "build_comparison", "build_dedup_report", "build_report", "format_table", "read_run"]
