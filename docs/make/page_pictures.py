"""The pictures of docs/page.md, taken from a page that draws in a real browser.

    pip install playwright            # and a Chromium, for example Debian's
    python docs/make/page_pictures.py PAGE.html [--chromium /usr/bin/chromium]

PAGE.html is made by `python -m diffusion.export checkpoint=… to=page`. Written: docs/page.png (a desk),
docs/page_phone.png (a telephone, dark) and docs/page.gif (the page while it draws).
"""

import argparse
import io
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image

DOCS = Path(__file__).parent.parent
COLOURS, MILLISECONDS, REST = 200, 140, 1800  # of the GIF, a frame, and the last one of each drawing


def opened(browser: Any, page: Path, width: int, height: int, scheme: str, scale: float = 2) -> Any:
    """The page in a window of its own, when it has drawn."""
    view = {"width": width, "height": height}
    context = browser.new_context(viewport=view, color_scheme=scheme, device_scale_factor=scale)
    tab = context.new_page()
    tab.goto(page.resolve().as_uri())
    settled(tab)
    return tab


def settled(tab: Any) -> None:
    """Wait until the drawing is done."""
    tab.locator("#status", has_text="ms each").wait_for(timeout=120_000)


def draw(tab: Any, *keys: str) -> None:
    """Press keys, each of which draws."""
    for key in keys:
        tab.keyboard.press(key)
        tab.wait_for_timeout(50)
        settled(tab)


def frames(tab: Any) -> list[tuple[Image.Image, int]]:
    """The steps of the drawing that is on the page, with the milliseconds for which each is seen."""
    found = []
    last = int(tab.evaluate("stage.steps"))
    for step in range(last + 1):
        tab.evaluate(f"stage.show({step})")
        picture = Image.open(io.BytesIO(tab.screenshot())).convert("RGB")
        found.append((picture, REST if step == last else MILLISECONDS))
    return found


def animate(pictures: list[tuple[Image.Image, int]], path: Path) -> None:
    """Write a GIF that goes round and round, with one palette for all frames."""
    images, milliseconds = zip(*pictures, strict=True)
    palette = images[-1].quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE)
    reduced = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    reduced[0].save(path, save_all=True, append_images=reduced[1:], duration=list(milliseconds), loop=0, optimize=True)


def main() -> None:
    sync_playwright = import_module("playwright.sync_api").sync_playwright  # no part of this package's extras

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    given = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=given.chromium)
        tab = opened(browser, given.page, 1280, 800, "light", 1.5)
        draw(tab, "g")
        tab.evaluate("stage.show(stage.steps - 4)")
        tab.screenshot(path=DOCS / "page.png")
        tab = opened(browser, given.page, 360, 740, "dark")
        draw(tab, "9")
        tab.evaluate("stage.show(6)")
        tab.screenshot(path=DOCS / "page_phone.png")
        tab = opened(browser, given.page, 1040, 790, "light", 0.75)
        pictures = []
        for key in ("9", "8", "g"):
            draw(tab, key)
            pictures += frames(tab)
        animate(pictures, DOCS / "page.gif")
        browser.close()


if __name__ == "__main__":
    main()
