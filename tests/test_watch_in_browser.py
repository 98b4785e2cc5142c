"""The page of `experiments.watch` in a real browser: it draws, follows a run, fits a phone, and loads nothing else."""

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.made_up_run import finish, log, make_run

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
# Points of the curves in the first panel, each by its class: those of training, those of examples not trained on.
COUNT_POINTS = """() => Object.fromEntries([...document.querySelectorAll("#panel-0 g")].map((group) => [
    group.getAttribute("class"), group.querySelector(".curve").getAttribute("d").match(/[ML]/g).length]))"""
DESTROYED = "Execution context was destroyed"  # what a question hears whose page loads itself anew meanwhile


@pytest.fixture
def browser():
    """Chromium; CI sets REQUIRE_BROWSER, so that a missing one is not overlooked there."""
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None or importlib.util.find_spec("playwright") is None:
        missing = "needs a chromium (apt-get install chromium) and playwright (pip install -e '.[test]')"
        pytest.fail(missing) if os.environ.get("REQUIRE_BROWSER") else pytest.skip(missing)
    sync_api = importlib.import_module("playwright.sync_api")
    with sync_api.sync_playwright() as tools:
        # Where root runs the tests, Chromium has no sandbox.
        found = tools.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


def open_page(browser, address, size, scheme="light"):
    """The page, and lists that what it asks for and what it complains of is added to."""
    page = browser.new_page(viewport=size, color_scheme=scheme)
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(address)
    page.wait_for_selector("#panel-0 .curve")
    return page, requests, complaints


def wait_until(ask: Callable[[], Any], expected: Any, seconds: float = 60) -> None:
    """Asks a page that loads itself anew every second, until it answers as expected."""
    deadline, found = time.monotonic() + seconds, None
    while time.monotonic() < deadline:
        try:
            found = ask()
        except importlib.import_module("playwright.sync_api").Error as error:
            if DESTROYED not in str(error):
                raise
        if found == expected:
            return
        time.sleep(0.05)
    assert found == expected


def is_only(address, requests):
    """Whether nothing but the page and what it holds itself was asked for."""
    return {request for request in requests if not request.startswith("data:")} == {address}


@pytest.mark.slow
def test_a_page_follows_runs_in_a_browser(tmp_path, browser):
    runs = [make_run(tmp_path / name, lines=25) for name in ("one", "other")]
    path = tmp_path / "page.html"
    command = [sys.executable, "-m", "experiments.watch", *map(str, runs), "--refresh=1", f"--out={path}"]
    watching = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert watching.stdout
    assert path.as_uri() in watching.stdout.readline()
    try:
        page, requests, complaints = open_page(browser, path.as_uri(), DESKTOP)
        expected = {"training": 25, "scored": 5}
        points = {f"run-{run} {split}": count for run in (0, 1) for split, count in expected.items()}
        count = lambda: page.evaluate(COUNT_POINTS)  # noqa: E731
        wait_until(count, points)
        wait_until(page.locator(".state").all_inner_texts, ["running", "running"])
        page.locator("button.run").nth(1).click()  # hides a run
        shown = {name: points[name] for name in points if name.startswith("run-0")}
        wait_until(count, shown)
        page.locator("#log").check()
        log(runs[0], range(52, 61, 2))
        wait_until(lambda: count().get("run-0 training"), 30)  # loads itself anew
        wait_until(page.locator("#log").is_checked, True)
        wait_until(lambda: "run-1 training" in count(), False)  # choices outlive it
        for run in runs:
            finish(run, steps=100)
        assert watching.wait(timeout=60) == 0
        wait_until(lambda: page.evaluate("() => !data.live"), True)
        wait_until(page.locator(".state").all_inner_texts, ["finished", "finished"])
        assert is_only(path.as_uri(), requests)
        assert complaints == []
    finally:
        watching.kill()
        watching.wait()
        watching.stdout.close()


@pytest.mark.slow
def test_a_page_fits_a_phone_and_a_dark_room(tmp_path, browser):
    runs = [make_run(tmp_path / f"a rather long name of a run, number {place}") for place in range(3)]
    path = tmp_path / "page.html"
    command = [sys.executable, "-m", "experiments.watch", *map(str, runs), "--once", f"--out={path}"]
    subprocess.run(command, check=True)
    page, requests, complaints = open_page(browser, path.as_uri(), PHONE, "dark")
    for details in page.locator("summary").all():
        details.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    figures = [figure.bounding_box() for figure in page.locator("figure:visible").all()]
    assert len({figure["x"] for figure in figures}) == 1  # one column
    red, green, blue = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert max(red, green, blue) < 64
    page.locator("#panel-0 svg").scroll_into_view_if_needed()
    page.locator("#panel-0 svg").hover(position={"x": 120, "y": 60})
    assert "step" in page.locator("#readout").inner_text()
    readout = page.locator("#readout").bounding_box()
    assert readout["x"] >= 0
    assert readout["x"] + readout["width"] <= PHONE["width"]
    page.evaluate("const s = document.createElement('script'); s.text = 'window.intruded = 1'; document.body.append(s)")
    assert not page.evaluate("window.intruded")  # the policy lets no other script run
    assert len(complaints) == 1
    assert "Content Security Policy" in complaints[0]
    assert is_only(path.as_uri(), requests)
