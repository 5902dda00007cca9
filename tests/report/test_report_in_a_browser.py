"""The report in a real browser: no error, no request, quick at 200 layers, sorted by keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import PROGRAM, Page, browser
from report.samples import frontier, manifest, measured

from slc.compiler.report.report import render

pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no chromium here (Debian: apt-get install chromium)"
)

RENDER_S = 2.0  # what a page of 200 layers may take until it is drawn
RENDER_TRIES = 4
_DRAWN = "new Promise(r => requestAnimationFrame(() => setTimeout(() => r(performance.now()))))"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 layers of 7 Linears."""
    about = manifest(200)
    about["memory"]["budget_bytes"] = int(1.02 * about["memory"]["predicted_bytes"])
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(about, measured(about), frontier(about), "ab" * 32), encoding="utf-8")
    return path


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_no_error_no_request_and_it_fits(page: Page, report: Path, width: int, dark: bool) -> None:
    page.open(report, width=width, dark=dark)
    assert page.errors == []
    assert page.requests == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)")
    shown = "[...document.querySelectorAll('svg')].filter(s => s.checkVisibility()).map(s => s.%s)"
    classes = page.evaluate(shown % "classList[0]")
    assert set(classes) == {"wide" if width > 640 else "narrow"}
    scales = page.evaluate(shown % "getBoundingClientRect().width / s.viewBox.baseVal.width")
    assert all(0.9 < scale < 1.1 for scale in scales)  # text is as large as it was drawn


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_has_contrast(page: Page, report: Path, dark: bool) -> None:
    """WCAG AA: 4.5 to 1 between every text's colour and the ground behind it."""
    page.open(report, dark=dark)
    worst = page.evaluate(_CONTRAST)
    assert worst[0] >= 4.5, worst


def test_200_layers_are_drawn_in_time(report: Path, tmp_path: Path) -> None:
    """In processor time of the thread that parses, lays out and paints: others share the machine.

    Where nothing else runs, that is what the page takes to appear. A neighbour on the same core
    only ever adds to it, so the least of a few tries, each in a new browser, is the page's own.
    """
    took: list[float] = []
    while len(took) < RENDER_TRIES and min(took, default=RENDER_S) >= RENDER_S:
        with browser(tmp_path / str(len(took))) as page:
            page.count_processor_time()
            page.open(report)
            page.evaluate(_DRAWN)
            assert page.evaluate("document.querySelectorAll('#linears tbody tr').length") == 1401
            took.append(page.processor_seconds())
    assert 0.01 < min(took) < RENDER_S, took


def column(page: Page, number: int) -> list[str]:
    return page.evaluate(
        "[...document.querySelectorAll('#linears tbody tr')].filter(r => !r.hidden)"
        f".map(r => r.cells[{number}].dataset.v ?? r.cells[{number}].textContent)"
    )


def test_sorts_by_keyboard_and_filters(page: Page, report: Path) -> None:
    page.open(report)
    heads = page.evaluate("[...document.querySelectorAll('#linears th')].map(h => h.textContent)")
    at = heads.index("bytes")
    before = column(page, 0)
    page.evaluate(f"document.querySelectorAll('#linears th button')[{at}].focus()")
    page.press("Enter", "\r")
    sizes = [int(size) for size in column(page, at)]
    assert sizes == sorted(sizes, reverse=True)
    assert page.evaluate("document.querySelector('[aria-sort]').textContent") == "bytes"
    page.press("Enter", "\r")
    assert [int(size) for size in column(page, at)] == sorted(sizes)
    page.evaluate("document.querySelectorAll('#linears th button')[0].click()")
    names = column(page, 0)
    assert names[8].startswith("model.layers.1.")  # 2 comes before 10
    assert sorted(names) == sorted(before)
    page.evaluate(
        "const f = document.getElementById('filter'); f.value = 'layers.19 q_proj';"
        "f.dispatchEvent(new Event('input'))"
    )
    assert len(column(page, 0)) == 11  # 19, 190 … 199
    assert page.evaluate("document.getElementById('shown').textContent") == "11 of 1401"
    page.evaluate(
        "const e = document.getElementById('encoding'); e.value = 'dense';"
        "e.dispatchEvent(new Event('change'))"
    )
    assert column(page, 0) == []
    why = heads.index("why")
    page.evaluate(
        "document.getElementById('filter').value = '';"
        "document.getElementById('filter').dispatchEvent(new Event('input'))"
    )
    assert column(page, why) == ["no option of S + L is smaller than f32 at <this> size"]
    assert page.errors == []


BROKEN = {
    "an exception": "<script>nothing.at.all</script>",
    "console.error": "<script>console.error('wrong')</script>",
    "a rejected promise": "<script>Promise.reject(new Error('late'))</script>",
    "a broken image": "<img src='nowhere.png'>",
}


@pytest.mark.parametrize("what", BROKEN)
def test_these_tests_would_see(what: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.html"
    path.write_text(f"<!doctype html><title>x</title>{BROKEN[what]}", encoding="utf-8")
    with browser(tmp_path / "profile") as page:
        page.open(path)
        page.evaluate(_DRAWN)
        assert page.errors != []
        assert (page.requests != []) == (what == "a broken image")


_CONTRAST = """
(() => {
  const parse = (c) => c.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => {
      v /= 255;
      return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  let worst = [99, ""];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || !e.checkVisibility() || ["SCRIPT", "title"].includes(e.tagName)) continue;
    const style = getComputedStyle(e);
    const ink = light(parse(e instanceof SVGElement ? style.fill : style.color));
    const ground = light(behind(e));
    const ratio = (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
    if (ratio < worst[0]) worst = [ratio, e.outerHTML.slice(0, 200)];
  }
  return worst;
})()
"""
