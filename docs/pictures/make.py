"""The two pictures of README: screenshots of a real run's report and of the playground that serves its model.

```
beholder demo                             # the run: two minutes on two cores
.venv/bin/python docs/pictures/make.py    # report.png and playground.png, beside this file
```

Chromium renders both pages without a window, in light colours; each picture is the upper part of a page, down to the
end of a whole element. Afterwards only the colours are reduced to a palette, to keep the files small.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, FloatRect, Page, sync_playwright

from beholder.evaluation.saved_run import read_results
from beholder.report.page import NAMED
from beholder.util.errors import RegistryError, ServeError
from beholder.workflows.find_runs import find_run

HERE = Path(__file__).parent
COLOURS = 256


def main() -> None:
    """Take both pictures of a run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("run", nargs="?", default="convabuse", help="a run's name, or its beginning; it was registered")
    parser.add_argument("--text", default="you are boring", help="what the readers are shown")
    parser.add_argument("--to", type=Path, default=HERE, help="folder of the pictures")
    arguments = parser.parse_args()
    folder = find_run(arguments.run)
    registered = read_results(folder).registered
    if registered is None:
        raise RegistryError(f"{folder.name}: registered no model, so that no playground can show it.")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        report(browser, folder, arguments.to / "report.png")
        with served(registered.model, str(registered.version)) as address:
            playground(browser, address, arguments.text, arguments.to / "playground.png")
        browser.close()


def report(browser: Browser, folder: Path, file: Path) -> None:
    """The report: verdict, what was asked, methods, gains by method and label."""
    page = opened(browser, (folder / NAMED).absolute().as_uri(), width=1100)
    save(page, ".charts >> nth=0", file, margin=24)


def playground(browser: Browser, address: str, text: str, file: Path) -> None:
    """A text as every reader sees it: the labels on which they differ most."""
    page = opened(browser, address, width=980)
    page.fill("#text", text)
    page.click("#ask-button")
    page.wait_for_selector("#labels figure")
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur()")
    save(page, "#labels figure >> nth=3", file)  # the next one begins where it ends


def opened(browser: Browser, address: str, width: int) -> Page:
    """A page, when it has loaded all it shows."""
    look: dict[str, Any] = {"color_scheme": "light", "reduced_motion": "reduce"}
    page = browser.new_page(viewport={"width": width, "height": 800}, **look)
    page.goto(address)
    page.wait_for_load_state("networkidle")
    return page


def save(page: Page, last: str, file: Path, margin: int = 0) -> None:
    """Write the page down to an element's end, and as many pixels more."""
    box, seen = page.locator(last).bounding_box(), page.viewport_size
    assert box and seen, last
    high = round(box["y"] + box["height"]) + margin
    clip: FloatRect = {"x": 0, "y": 0, "width": seen["width"], "height": high}
    taken = Image.open(io.BytesIO(page.screenshot(full_page=True, clip=clip)))
    taken.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"{file}: {taken.width} x {taken.height}, {file.stat().st_size / 1000:.0f} kB")


@contextlib.contextmanager
def served(model: str, version: str) -> Iterator[str]:
    """`beholder serve` on loopback, from when it answers until the block ends; its address."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "beholder.cli.main", "serve", "--model", model, "--version", version]
    server = subprocess.Popen([*command, "--port", str(port)])
    try:
        address = f"http://127.0.0.1:{port}/"
        deadline = time.monotonic() + 240
        while not answers(f"{address}v1/model"):
            if server.poll() is not None or time.monotonic() > deadline:
                raise ServeError(f"{model} v{version} is not served. Try: beholder serve --model {model}")
            time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait(60)


def answers(address: str) -> bool:
    """Whether a server has come up."""
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return bool(json.load(answer))
    except (urllib.error.URLError, OSError):
        return False


if __name__ == "__main__":
    main()
