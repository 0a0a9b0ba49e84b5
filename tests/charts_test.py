"""The charts that commands draw, in a browser: no label covers another or leaves the drawing."""

import os
import pathlib
import subprocess

import pytest
from browser import label_faults, open_browser
from records import unpack_records

DUALFP = os.environ["DUALFP_BINARY"]
SOURCE_DIR = pathlib.Path(os.environ["DUALFP_SOURCE_DIR"])
MODEL = SOURCE_DIR / "models/reference"


def run(*arguments):
    subprocess.run([DUALFP, *map(str, arguments)], check=True, capture_output=True, timeout=300)


def plots(folder):
    run("bench", "report", *unpack_records(folder, "h200-gemm", "h200-elementwise"),
        "--output", folder / "performance.md")
    return sorted((folder / "performance").glob("*.svg"))


def bars(folder):
    run("eval", MODEL, "--text", MODEL / "held_out.txt", "--max-tokens", 100, "--per-layer",
        "--svg", folder / "layers.svg")
    return [folder / "layers.svg"]


def differences(folder):
    run("quantize", MODEL, folder / "fp8")
    run("inspect", "--compare", MODEL, folder / "fp8", "--plot", folder / "differences.svg")
    return [folder / "differences.svg"]


@pytest.mark.parametrize("draw", [plots, bars, differences])
def test_labels_are_apart_and_inside(tmp_path, draw):
    files = draw(tmp_path)
    assert files
    with open_browser() as browser:
        page = browser.new_page()
        for file in files:
            page.goto(file.as_uri())
            assert label_faults(page) == [], file.name


def test_the_dark_theme_is_dark(tmp_path):
    [file] = bars(tmp_path)
    with open_browser() as browser:
        grounds, inks = {}, {}
        for scheme in "light", "dark":
            page = browser.new_page(color_scheme=scheme)
            page.goto(file.as_uri())
            for found, selector in (grounds, "rect"), (inks, "text"):
                found[scheme] = page.evaluate(
                    "s => getComputedStyle(document.querySelector(s)).fill", selector)
        assert grounds == {"light": "rgb(255, 255, 255)", "dark": "rgb(23, 27, 39)"}
        assert inks["light"] != inks["dark"]


def test_the_test_catches_faults(tmp_path):
    drawing = tmp_path / "bad.svg"
    drawing.write_text('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 50" width="100" height="50">'
                       '<text x="10" y="20">one</text><text x="12" y="22">two</text>'
                       '<text x="90" y="40">outside</text></svg>')
    with open_browser() as browser:
        page = browser.new_page()
        page.goto(drawing.as_uri())
        assert label_faults(page) == ['"one" and "two"', '"outside" leaves the drawing']
