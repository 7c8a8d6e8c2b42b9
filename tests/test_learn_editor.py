"""A reader's edit in a page that is served: typed in a browser, judged by the server, shown red where it is wrong."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
WAIT = 120_000  # ms; a busy machine takes its time to start a kernel


@contextmanager
def served(page):
    """The address of `inception-np learn PAGE --headless`."""
    command = [sys.executable, "-m", "inception_np", "learn", page, "--headless"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, **pipes, start_new_session=True) as server:
        try:
            lines = []
            for line in server.stdout:
                lines.append(line)
                found = re.search(r"http://\S+", line)
                if found:
                    break
            else:
                raise AssertionError("".join(lines))
            threading.Thread(target=server.stdout.read, daemon=True).start()  # so that it never waits for a reader
            yield found.group()
        finally:
            os.killpg(server.pid, signal.SIGTERM)  # marimo's process too


@pytest.mark.long
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_an_edit_turns_the_verdict_red_and_back(tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    pytest.importorskip("marimo", reason="needs inception-np[learn]")
    with served("5_batch_norm") as address, playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 4000})
        page.goto(address)
        verdict = page.locator(".verdict").first
        verdict.get_by_text("Right: 156 comparisons").wait_for(timeout=WAIT)
        page.get_by_text("A solution").wait_for(timeout=WAIT)  # the last cell has run: nothing moves any more

        line = page.locator(".cm-line", has_text="dx = rstd *").first
        line.click()
        page.locator(".cm-editor.cm-focused").wait_for(timeout=WAIT)
        page.keyboard.press("Home")
        for _ in range(len("dx = rstd * (g - g.mean(NHW) ")):
            page.keyboard.press("ArrowRight")
        page.keyboard.press("Delete")
        page.keyboard.type("+")
        verdict.get_by_text(re.compile(r"^Wrong: dx\[\d, \d, \d, \d\] is ")).wait_for(timeout=WAIT)
        assert verdict.get_by_text("dx: yours - complex step").is_visible()
        page.screenshot(path=tmp_path / "wrong.png")

        page.keyboard.press("Backspace")
        page.keyboard.type("(")
        verdict.get_by_text(re.compile(r"^line \d+: ")).wait_for(timeout=WAIT)

        page.keyboard.press("Backspace")
        page.keyboard.type("-")
        verdict.get_by_text("Right: 156 comparisons").wait_for(timeout=WAIT)
        browser.close()
