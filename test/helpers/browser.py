"""A headless Chromium with the pages of this package in it, driven by playwright; tests are skipped without them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

# What models, cameras and bags may be called.
EVIL = '</script><script>document.title="caught"</script><img src=x onerror=\'document.title="caught"\'>'
LONG = 'a_camera_with_a_name_as_long_as_some_people_like_them_and_longer_than_pages_like_them'
# Every piece of text against what lies behind it, as WCAG 2 reckons contrast: those below 4.5.
FAINT = """
() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = (colour) => colour.slice(0, 3).map((c) => linear(c / 255))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return matchMedia('(prefers-color-scheme: dark)').matches ? [0, 0, 0] : [255, 255, 255];
  };
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const parent = node.parentElement;
    if (!node.textContent.trim() || ['SCRIPT', 'STYLE', 'NOSCRIPT', 'title'].includes(parent.tagName)) continue;
    const style = getComputedStyle(parent), ink = parent.closest('svg') ? style.fill : style.color;
    const levels = [light(parse(ink)), light(behind(parent))].sort((a, b) => b - a);
    const contrast = (levels[0] + 0.05) / (levels[1] + 0.05);
    if (contrast < 4.5) found.push([node.textContent.trim().slice(0, 40), contrast]);
  }
  return found;
}
"""
# What a keyboard or a screen reader meets without a name.
NAMELESS = """
() => [...document.querySelectorAll('button, input, a, img, svg[role=img], [tabindex], [role=region]')]
  .filter((node) => node.checkVisibility() && !node.closest('[aria-hidden=true]'))
  .filter((node) => !(node.getAttribute('aria-label') || node.getAttribute('alt') || node.textContent.trim()))
  .map((node) => node.outerHTML.slice(0, 80))
"""


@contextmanager
def chromium() -> Iterator[Any]:
    """A running browser; skips the test where playwright or Chromium is missing."""
    sync_api = pytest.importorskip('playwright.sync_api', reason='playwright is not installed: pip install playwright')
    program = shutil.which('chromium') or shutil.which('chromium-browser')
    if program is None:
        pytest.skip("there is no Chromium: apt-get install chromium (Debian's package)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=['--no-sandbox', '--disable-dev-shm-usage'])
        try:
            yield browser
        finally:
            browser.close()


class OpenPage:
    """One page, of a file or an address, and all that it complained about or asked the network for."""

    def __init__(
        self, browser: Any, file: Path | str, width: int = 1240, scheme: str = 'light', script: str = ''
    ) -> None:
        """``script`` runs before the page's own."""
        self.page = browser.new_page(viewport={'width': width, 'height': 900}, color_scheme=scheme)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        if script:
            self.page.add_init_script(script)
        self.page.on('console', lambda message: self.complaints.append(message.text))
        self.page.on('pageerror', lambda error: self.complaints.append(str(error)))
        self.page.on('request', lambda request: self.requests.append(request.url[:40]))
        self.page.goto(file if isinstance(file, str) else file.resolve().as_uri())

    def text(self, selector: str) -> str:
        """The text of one element."""
        return str(self.page.text_content(selector))

    def widths(self) -> tuple[int, int]:
        """Width of the content, and of the window."""
        root = 'document.documentElement'
        found = self.page.evaluate(f'[{root}.scrollWidth, {root}.clientWidth]')
        return found[0], found[1]

    def points(self) -> dict[tuple[str, str], list[int]]:
        """Per lane of the report, by group and name, the number of points of each line or area in it."""
        found = self.page.evaluate(
            """() => [...document.querySelectorAll('.lane')].map((lane) => [lane.dataset.lane, lane.dataset.name,
              [...lane.querySelectorAll('polyline, polygon')].map((one) => one.points.numberOfItems)])"""
        )
        return {(group, name): points for group, name, points in found}
