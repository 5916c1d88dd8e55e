"""Debian's Chromium without a window, for the tests of pages."""

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

CHROMIUM = "/usr/bin/chromium"
OPTIONS = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"]

# every element with words of its own: its text's contrast with what lies behind it, as WCAG 2 counts it
CONTRASTS = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (text) => {
    const [r, g, b] = rgb(text).map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = rgb(getComputedStyle(element).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return getComputedStyle(element).backgroundColor;
    }
    return "rgb(255, 255, 255)";
  };
  const ratio = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
  const words = [...document.body.querySelectorAll("*")].filter(
    (e) => e.getClientRects().length && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()));
  const lines = [...document.querySelectorAll("path.js-line")];
  return {
    words: words.map((e) => [e.textContent.slice(0, 40), ratio(
      e instanceof SVGElement ? getComputedStyle(e).fill : getComputedStyle(e).color, behind(e))]),
    sizes: words.map((e) => [e.textContent.slice(0, 40), parseFloat(getComputedStyle(e).fontSize)]),
    lines: lines.map((e) => [getComputedStyle(e).stroke, ratio(getComputedStyle(e).stroke, behind(e))]),
  };
}"""
WIDE = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser with an empty profile of its own, which Playwright removes."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*OPTIONS, "--disable-component-update"])
        yield browser
        browser.close()
