"""The notebooks as HTML pages in a browser: no error, every picture drawn, every claim there, no text cut off.

A page takes its scripts from marimo's public files; here they come from the installed marimo, so that no network is
needed.
"""

import mimetypes
import shutil
from pathlib import Path

import pytest

from inception_np.learn import command
from inception_np.learn.command import exported
from inception_np.learn.pages import claims_in, pages

marimo = pytest.importorskip("marimo", reason="needs inception-np[learn]")
playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not BROWSER, reason="needs Chromium"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
STATIC = Path(marimo.__file__).parent / "_static"

# What a reader would miss: elements that hide a part of their text, and pictures that are not there. A box that scrolls
# hides nothing; what is folded is not looked at. A formula has a hidden copy to be read aloud, and line numbers one
# that makes room for them.
LOST = """() => {
  const lost = [];
  const walk = (root) => {
    for (const e of root.querySelectorAll("*")) {
      if (e.shadowRoot) walk(e.shadowRoot);
      const box = e.getBoundingClientRect();
      if (!box.width || !box.height || e.closest(".katex-mathml, .cm-gutters")) continue;
      const style = getComputedStyle(e);
      if (e.tagName === "IMG" && !(e.complete && e.naturalWidth)) lost.push("picture " + e.src.slice(0, 80));
      if (!e.textContent.trim() || e.tagName === "STYLE" || e.tagName === "SVG") continue;
      const wide = /hidden|clip/.test(style.overflowX) && e.scrollWidth > e.clientWidth + 2;
      const high = /hidden|clip/.test(style.overflowY) && e.scrollHeight > e.clientHeight + 2;
      if (wide || high)
        lost.push("text of " + e.tagName + " " + e.className + ": " + e.textContent.trim().slice(0, 80));
    }
  };
  walk(document);
  if (document.documentElement.scrollWidth > innerWidth + 1) lost.push("the page is wider than the window");
  return lost;
}"""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as p:
        started = p.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


def from_marimo(route):
    """Answer a request for one of marimo's public files."""
    file = STATIC / route.request.url.partition("/dist/")[2].partition("?")[0]
    if file.is_file():
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        route.fulfill(path=file, content_type=kind, headers={"access-control-allow-origin": "*"})
    else:
        route.abort()


def look(browser, file, ready):
    """(the page, what is wrong with it in a wide and a narrow window) once `ready`, a selector, is there."""
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    wrong = []
    page.on("console", lambda m: wrong.append(f"console: {m.text}") if m.type == "error" else None)
    page.on("pageerror", lambda e: wrong.append(f"error: {e}"))
    page.on("requestfailed", lambda r: wrong.append(f"request: {r.url}"))
    page.route("https://cdn.jsdelivr.net/**", from_marimo)
    page.goto(file.as_uri())
    page.wait_for_selector(ready, timeout=30_000)
    page.wait_for_load_state("networkidle")
    for width in (1200, 800):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(500)
        wrong += page.evaluate(LOST)
    return page, wrong


@pytest.mark.parametrize("notebook", pages(), ids=lambda page: page.name)
def test_a_page_shows_everything(notebook, browser, tmp_path):
    file = tmp_path / "page.html"
    file.write_bytes(exported(notebook))
    page, wrong = look(browser, file, "h1")
    assert not wrong
    text = page.inner_text("body")
    assert all(f"({key})" in text for key in claims_in(notebook.file.read_text()))
    assert "Traceback" not in text and "An internal error" not in text
    page.close()


def test_the_index_leads_to_every_page(browser, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "exported", lambda notebook: b"<!doctype html><title>A page</title>")
    command.write_pages(pages(), tmp_path)
    page, wrong = look(browser, tmp_path / "index.html", "h1")
    links = page.eval_on_selector_all("a", "all => all.map(a => a.href)")
    assert not wrong and len(links) == len(pages())
    assert all(Path(link.removeprefix("file://")).is_file() for link in links)


@pytest.mark.parametrize(
    "body, fault",
    [
        ('<img src="missing.png" width="9" height="9">', "picture"),
        ('<p style="width:60px;overflow:hidden;white-space:nowrap">a text that is longer than its box</p>', "text of"),
        ('<p style="height:9px;overflow:hidden">two<br>lines</p>', "text of"),
        ('<p style="width:3000px">wide</p>', "the page is wider"),
        ("<script>console.error('lost')</script>", "console"),
        ("<script>undefined.x</script>", "error"),
    ],
)
def test_a_fault_of_a_page_is_seen(body, fault, browser, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(f"<!doctype html><h1>A page</h1>{body}")
    _, wrong = look(browser, file, "h1")
    assert any(w.startswith(fault) for w in wrong), wrong
    file.write_text("<!doctype html><h1>A page</h1><p>Nothing wrong.")
    assert look(browser, file, "h1")[1] == []
