"""The report in a real browser: it is clicked, sorted, filtered, searched; nothing injected runs. Needs Chromium."""

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
        for arm, left in (("none", [0] * 6 + [1] * 2), (NASTY[0], [1] * 6 + [0] * 2)):
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


@pytest.fixture
def opened(browser, page: str):
    """The page, loaded anew, its facts unpacked."""
    browser.get("about:blank")
    browser.get(page)
    until(lambda: browser.find_element("id", "explorer").is_displayed())
    return browser


def until(true, seconds: float = 10) -> None:
    """Wait until something is so."""
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < seconds
        time.sleep(0.02)


def column(driver, number: int) -> list[str]:
    """The shown text of a column of the table of facts."""
    script = "return [...document.querySelectorAll('#rows tbody tr')].map((row) => row.cells[arguments[0]].textContent)"
    return driver.execute_script(script, number)


def pick(driver, id_: str, value: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(driver.find_element("id", id_)).select_by_visible_text(value)


def found(driver) -> int:
    """How many rows the table says it has."""
    return int(driver.find_element("id", "found").text.split(" ")[0].replace(",", ""))


def test_nothing_injected_runs(opened) -> None:
    """Not in the page itself, and not in the table, which is filled by a script."""
    assert opened.title.startswith("What was retained")
    assert opened.execute_script("return document.querySelectorAll('body script:not([type])').length") == 1
    assert (
        opened.execute_script("return document.querySelectorAll('#rows img, main b, main img:not([alt])').length") == 0
    )
    prompts = column(opened, 0)
    assert NASTY[0] in prompts
    assert "line␊break␤and␤more␀␇␛[31m\ud7ff" in prompts  # control characters are seen
    assert any("onerror" in said for said in column(opened, 5))


def test_facts_are_filtered_searched_and_sorted(opened) -> None:
    assert found(opened) == 32
    pick(opened, "outcome", "lost")
    assert found(opened) == 16
    assert {text.split(" ")[1] for text in column(opened, 4)} == {"lost"}
    pick(opened, "arm", "none")
    pick(opened, "seed", "1")
    assert (found(opened), set(column(opened, 2)), set(column(opened, 3))) == (6, {"none"}, {"1"})
    opened.find_element("css selector", "#filters button").click()
    until(lambda: found(opened) == 32)
    opened.find_element("id", "words").send_keys("GNP")  # in a fact
    until(lambda: found(opened) == 4)
    opened.find_element("css selector", "#filters button").click()
    until(lambda: found(opened) == 32)
    opened.find_element("id", "words").send_keys("onerror=\"document.title = 'run'\"> 3")  # in an answer
    until(lambda: found(opened) == 2)
    opened.find_element("css selector", "#filters button").click()
    until(lambda: found(opened) == 32)
    by_arm = opened.find_element("css selector", "[data-by=arm]")
    by_arm.click()
    assert column(opened, 2)[0] == "none"
    by_arm.send_keys("\ue007")  # Enter: the keyboard does what a click does
    assert column(opened, 2)[0] == NASTY[0]
    assert by_arm.find_element("xpath", "..").get_attribute("aria-sort") == "descending"
    opened.find_element("css selector", "[data-by=known]").click()
    assert set(column(opened, 6)) == {"2 of 4"}


def test_twenty_thousand_facts_stay_usable(opened, page: str) -> None:
    assert Path(page.removeprefix("file://")).stat().st_size < 10e6
    pick(opened, "of", "big on tiny: kvr")
    until(lambda: found(opened) == 2 * MANY)
    assert len(column(opened, 0)) == 50
    started = time.monotonic()
    opened.find_element("id", "words").send_keys("key 1999")
    until(lambda: found(opened) == 2 * 11)
    opened.find_element("id", "words").send_keys("\ue009a\ue000\ue003")  # Ctrl + A, and away with it
    until(lambda: found(opened) == 2 * MANY)
    opened.find_element("css selector", "[data-by=known]").click()
    opened.find_element("css selector", "[data-by=fact]").click()
    assert column(opened, 0)[2] == "The value of key 1 is?"  # two runs of key 0 before it: numbers sort as numbers
    opened.find_element("id", "on").click()
    assert column(opened, 0)[0] == "The value of key 25 is?"
    assert time.monotonic() - started < 10
    opened.find_element("id", "back").click()
    assert not opened.find_element("id", "back").is_enabled()


def test_links_pictures_and_narrow_screens(opened) -> None:
    """Each entry of the contents leads to its section; pictures are drawn; a phone's page does not scroll sideways."""
    for link in opened.find_elements("css selector", "nav a"):
        target = link.get_attribute("href").split("#")[1]
        link.click()
        assert opened.execute_script("return document.querySelector(':target').id") == target
    assert opened.execute_script("return [...document.images].every((i) => i.complete && i.naturalWidth > 0)")
    from selenium.webdriver.support.ui import WebDriverWait

    was = opened.execute_script("return document.images[0].currentSrc")
    opened.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    WebDriverWait(opened, 20).until(lambda _: opened.execute_script("return document.images[0].currentSrc") != was)
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    phone = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    assert opened.execute_script("return document.documentElement.scrollWidth") <= 390
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    unnamed = "return [...document.querySelectorAll('input, select')].filter((e) => !e.labels.length).length"
    assert opened.execute_script(unnamed) == 0
