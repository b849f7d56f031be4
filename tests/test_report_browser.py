"""The report in a real browser: it is clicked, sorted, searched; nothing injected runs. Needs Chromium."""

import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_report import NASTY
from trained_store import TrainedStore, once

from remix_toolkit.report.page import write_report

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="Chromium is not here (`make browser` installs it)")
FLAGS = ["headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking"]
FLAGS += ["disable-component-update", "disable-sync", "disable-dev-shm-usage", "window-size=1280,900"]
MANY = 20_000


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """Chromium with a profile of its own; what its console said is looked at after each test."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in [*FLAGS, f"user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture(autouse=True)
def quiet(browser) -> Iterator[None]:
    """No test may leave an error in the browser's console."""
    yield
    assert [line["message"] for line in browser.get_log("browser")] == []


@pytest.fixture(scope="module")
def page(trained: TrainedStore, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the report of two sweeps: of eight nasty facts, two arms, two seeds; of 20,000, two runs."""

    def make(runs: Path) -> None:
        for arm, left in (("none", [0] * 6 + [1] * 2), (NASTY[1], [1] * 6 + [0] * 2)):
            known = {"stage1": {"kvr": [1] * 8}, "stage2": {"kvr": left, "invented_facts": [1]}}
            for seed in (0, 1):
                trained.write_run(runs, arm, seed, known, asked=NASTY, wrong=f"{NASTY[1]} {{row}}")
        rng = random.Random(0)
        for seed in range(2):
            left = [int(rng.random() < 0.3) for _ in range(MANY)]
            known = {"stage1": {"kvr": [1] * MANY}, "stage2": {"kvr": left, "invented_facts": [1]}}
            trained.write_run(runs, "one", seed, known, recipe="big")
        write_report(runs, runs / "report", None)

    return (once(tmp_path_factory.getbasetemp(), "browsed", make) / "report" / "index.html").as_uri()


class Facts:
    """A table of facts on the page, opened."""

    def __init__(self, driver, number: int) -> None:
        self.driver = driver
        self.box = driver.find_elements("css selector", "details.facts")[number]
        self.box.find_element("tag name", "summary").send_keys("\ue007")  # Enter: by the keyboard
        until(lambda: self.box.find_elements("css selector", "tbody th"))

    def count(self) -> int:
        """How many facts are said to be there."""
        info = self.box.find_elements("css selector", ".dt-info")
        return int(info[0].text.split(" of ")[1].split(" ")[0].replace(",", "")) if info else 0

    def column(self, number: int) -> list[str]:
        script = "return [...arguments[0].querySelectorAll('tbody tr')].map((r) => r.cells[arguments[1]].textContent)"
        return self.driver.execute_script(script, self.box, number)

    def search(self, text: str, count: int, column: int | None = None) -> None:
        """Search all columns or one, and wait until so many facts are left; then take it back."""
        place = ".dt-search input" if column is None else f"thead td:nth-child({column + 1}) input"
        field = self.box.find_element("css selector", place)
        before = self.count()
        field.send_keys(text)
        until(lambda: self.count() == count)
        field.send_keys("\ue009a\ue000\ue003")  # Ctrl + A, and away with it
        until(lambda: self.count() == before)

    def sort(self, column: int) -> None:
        self.box.find_elements("css selector", "thead tr:first-child .dt-column-order")[column].send_keys("\ue007")


@pytest.fixture
def opened(browser, page: str):
    """The page, loaded anew."""
    browser.get("about:blank")
    browser.get(page)
    return browser


def until(true, seconds: float = 20) -> None:
    """Wait until something is so."""
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < seconds
        time.sleep(0.02)


def test_nothing_injected_runs(opened) -> None:
    """Not in the page itself, and not in the table, which is filled by a script."""
    facts = Facts(opened, 0)
    prompts = facts.column(1)
    assert NASTY[0] in prompts
    assert "line␊break␤and␤more␀␇␛[31m\ud7ff" in prompts  # control characters are seen
    assert facts.column(4)[0] == f"lost 2 of 2: {NASTY[1]} 0..."
    assert opened.title.startswith("What was retained")
    injected = "main b, main img:not([alt]), details img, body script:not([type])"
    assert opened.execute_script(f"return document.querySelectorAll('{injected}').length") == 0


def test_facts_are_searched_and_sorted(opened) -> None:
    facts = Facts(opened, 0)
    assert facts.count() == 8
    facts.search("GNP", 1)  # in a fact
    facts.search("onerror=\"document.title = 'run'\"> 3", 1)  # in an answer
    facts.search("lost", 6, column=4)  # under one arm
    facts.search("lost", 2, column=5)
    assert facts.column(3) == ["2"] * 8  # of the four runs
    facts.sort(5)
    assert facts.column(5)[0].startswith("kept 2 of 2")
    facts.sort(5)
    assert facts.column(5)[0].startswith("lost 2 of 2")
    assert facts.box.find_elements("css selector", "th[aria-sort=descending]")


def test_twenty_thousand_facts_stay_usable(opened, page: str) -> None:
    assert Path(page.removeprefix("file://")).stat().st_size < 10e6
    started = time.monotonic()
    facts = Facts(opened, 1)
    assert (facts.count(), len(facts.column(0))) == (MANY, 25)
    facts.search("key 1999", 11)
    facts.sort(3)
    facts.sort(0)
    assert facts.column(0)[:3] == ["0", "1", "2"]
    facts.box.find_element("css selector", "[data-dt-idx=next]").click()
    assert facts.column(1)[0] == "The value of key 25 is?"
    assert time.monotonic() - started < 20


def test_links_pictures_and_narrow_screens(opened) -> None:
    """Each entry of the contents leads to its section; pictures are drawn; a phone's page does not scroll sideways."""
    for link in opened.find_elements("css selector", "nav a"):
        target = link.get_attribute("href").split("#")[1]
        link.click()
        assert opened.execute_script("return document.querySelector(':target').id") == target
    assert opened.execute_script("return [...document.images].every((i) => i.complete && i.naturalWidth > 0)")
    Facts(opened, 0)
    is_dark = "return document.documentElement.classList.contains('dark')"
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        until(lambda scheme=scheme: opened.execute_script(is_dark) == (scheme == "dark"))
        filtered = opened.execute_script("return getComputedStyle(document.images[0]).filter")
        assert filtered.startswith("invert" if scheme == "dark" else "none")
    phone = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    assert opened.execute_script("return document.documentElement.scrollWidth") <= 390
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    unnamed = "return [...document.querySelectorAll('input, select')].filter((e) => !e.labels.length && !e.ariaLabel)"
    assert opened.execute_script(unnamed) == []
