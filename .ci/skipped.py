"""A plugin for pytest: the names of the tests it skipped go to the file $SKIPPED, for `pytest @file` later."""

import os
from pathlib import Path

import pytest

skipped: dict[str, None] = {}  # each once, in order


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A file that skips itself whole."""
    if report.skipped:
        skipped[report.nodeid] = None


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and "gpu" not in report.keywords:
        skipped[report.nodeid] = None


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):  # a process of `pytest -n` tells the one that started it
        Path(os.environ["SKIPPED"]).write_text("".join(f"{name}\n" for name in skipped))
