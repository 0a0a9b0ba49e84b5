"""Pages and charts in headless Chromium, for tests of what draws them."""

import contextlib
import shutil

from playwright.sync_api import sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or "chromium"

# Boxes are as high as the font, letters are not: a pixel may be shared.
_FAULTS = """() => [...document.querySelectorAll("svg.chart, svg:root")].flatMap(svg => {
  const frame = svg.getBoundingClientRect();
  const texts = [...svg.querySelectorAll("text")].filter(text => text.textContent !== "")
    .map(text => [text.textContent, text.getBoundingClientRect()]);
  const faults = [];
  texts.forEach(([a, box], i) => {
    for (const [b, other] of texts.slice(i + 1)) {
      if (box.left < other.right - 1 && other.left < box.right - 1 &&
          box.top < other.bottom - 3 && other.top < box.bottom - 3) {
        faults.push(`"${a}" and "${b}"`);
      }
    }
    if (box.left < frame.left - 1 || box.right > frame.right + 1 ||
        box.top < frame.top - 1 || box.bottom > frame.bottom + 1) {
      faults.push(`"${a}" leaves the drawing`);
    }
  });
  return faults;
})"""


@contextlib.contextmanager
def open_browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def label_faults(page):
    """Pairs of texts of a chart that cover each other, and texts that leave it."""
    return page.evaluate(_FAULTS)
