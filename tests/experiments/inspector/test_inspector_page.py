"""The inspector's page in a real browser, headless Chromium: what moves, what is sorted, and that nothing is asked of
any network. Needs Debian's ``chromium`` and ``chromium-driver``; a machine without them leaves these tests out, CI
must have them.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from colaworld.experiments.inspector import write_report
from colaworld.experiments.inspector_episode import pack, save
from colaworld.experiments.inspector_live import LiveReport

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """One for all tests, with logs of what it asked for and of what went wrong in it."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        missing = "the browser tests need Debian's packages chromium and chromium-driver"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    yield started
    started.quit()


@pytest.fixture
def page(browser, tmp_path, fake_episode, log_line) -> webdriver.Chrome:
    """A page of four planned goals (two missed) and one random episode, just opened from disk."""
    records = [
        log_line(0, True),
        log_line(1, False, category="push", scene="</script><b id=broken>"),
        log_line(2, True),
        log_line(3, False),
        log_line(3, False, row="random"),
    ]
    for record in records[:4]:
        save(tmp_path, record, pack(fake_episode(steps=6)))
    save(tmp_path, records[4], pack(fake_episode(planned=False)))
    opened(browser, write_report(tmp_path, records, title="a run").as_uri())
    return browser


def opened(browser: webdriver.Chrome, url: str) -> None:
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get("about:blank")  # an address that differs after # alone would not load anything
    browser.get(url)
    wait(browser, lambda: text(browser, "at"))


def wait(browser: webdriver.Chrome, condition) -> None:
    WebDriverWait(browser, 30, poll_frequency=0.05).until(lambda _: condition())


def text(browser: webdriver.Chrome, name: str) -> str:
    return browser.find_element(By.ID, name).text


def frame(browser: webdriver.Chrome, name: str) -> str:
    return browser.find_element(By.ID, name).get_attribute("data-frame")


def press(browser: webdriver.Chrome, *keys: str) -> None:
    browser.find_element(By.TAG_NAME, "body").send_keys(*keys)


def names(browser: webdriver.Chrome) -> list[str]:
    read = "return [...document.querySelectorAll('#episodes tbody tr')].map((row) => row.dataset.name)"
    rows = browser.execute_script(read)
    return [row.removesuffix("_seed0") for row in rows]


def chosen(browser: webdriver.Chrome) -> str:
    row = browser.find_element(By.CSS_SELECTOR, "#episodes tbody tr[aria-current]")
    return row.get_attribute("data-name").removesuffix("_seed0")


def brightness(browser: webdriver.Chrome, name: str) -> float:
    """Of the frame that an element shows, read from the picture that it is a window on."""
    return browser.execute_async_script(
        """
        const [name, done] = arguments, element = document.getElementById(name);
        const number = Number(element.dataset.frame), picture = new Image();
        picture.onload = () => {
          const canvas = document.createElement("canvas"), place = canvas.getContext("2d");
          place.drawImage(picture, -16 * (number % 16) - 8, -16 * Math.floor(number / 16) - 8);
          done(place.getImageData(0, 0, 1, 1).data[0]);
        };
        picture.src = element.style.backgroundImage.slice(5, -2);
        """,
        name,
    )


def test_the_slider_moves_executed_and_imagined_frame_together(page) -> None:
    assert text(page, "at") == "0 / 6" and frame(page, "foreseen") == ""
    assert "No plan yet" in text(page, "plan-note")
    for step in (1, 2, 3):
        page.find_element(By.ID, "step").send_keys(Keys.ARROW_RIGHT)
        assert text(page, "at") == f"{step} / 6"
        assert brightness(page, "executed") == pytest.approx(10 * step, abs=4)
        if step > 1:
            assert brightness(page, "foreseen") == pytest.approx(10 * step + 5, abs=4), "as imagined one step before"
        assert brightness(page, "goal") == pytest.approx(200, abs=4)
        assert text(page, "plan-heading") == f"Plan made on frame {step}"
        steps = [button.text for button in page.find_elements(By.CSS_SELECTOR, "#film thead button")]
        assert steps == [str(step + ahead) for ahead in (1, 2, 3)]
    press(page, Keys.ARROW_LEFT)
    assert text(page, "at") == "2 / 6" and page.current_url.endswith("@2")
    press(page, Keys.END)
    assert text(page, "at") == "6 / 6" and page.find_element(By.ID, "step").get_attribute("value") == "6"


def test_the_film_shows_what_followed_and_the_search_its_numbers(page) -> None:
    press(page, Keys.ARROW_RIGHT * 5)
    imagined, followed, difference = page.find_elements(By.CSS_SELECTOR, "#film tbody tr")[:3]
    shown = [len(row.find_elements(By.CSS_SELECTOR, ".frame:not(.none)")) for row in (imagined, followed, difference)]
    assert shown == [3, 1, 1], "of the plan made on frame 5 only frame 6 was reached"
    assert "0.020" in text(page, "film")
    titles = [each.text for each in page.find_elements(By.CSS_SELECTOR, ".chart h4")]
    assert titles[:2] == ["Cost by iteration", "Spread by iteration"] and "Seconds per plan" in titles
    assert "best 1.000" in text(page, "plan-charts") and "elites 0.200" in text(page, "plan-charts")
    assert "token 1 31 30 29" in text(page, "planned") and "gripper 0.60" in text(page, "planned")


def test_failures_come_first_and_the_list_sorts_and_filters(page) -> None:
    assert names(page) == ["planner_001", "planner_003", "random_003", "planner_000", "planner_002"]
    assert chosen(page) == "planner_001"
    page.find_element(By.XPATH, "//table[@id='episodes']//button[text()='closest']").click()
    assert names(page)[:3] == ["planner_000", "planner_002", "planner_001"]
    assert page.find_element(By.CSS_SELECTOR, "th[aria-sort]").get_attribute("aria-sort") == "ascending"
    page.find_element(By.CSS_SELECTOR, "th[aria-sort] button").click()
    assert names(page)[:3] == ["planner_003", "random_003", "planner_001"]
    Select(page.find_element(By.ID, "filter-category")).select_by_value("push")
    assert names(page) == ["planner_001"] and text(page, "count") == "1 shown"


def test_keys_and_rows_choose_episodes(page) -> None:
    press(page, Keys.ARROW_DOWN)
    wait(page, lambda: text(page, "name") == "reach 3")
    assert chosen(page) == "planner_003"
    press(page, Keys.ARROW_DOWN)
    wait(page, lambda: chosen(page) == "random_003")
    wait(page, lambda: "has no plans" in text(page, "plan-note"))
    press(page, Keys.ARROW_UP, Keys.ARROW_UP)
    wait(page, lambda: text(page, "name") == "push 1")
    page.find_element(By.CSS_SELECTOR, '[data-name="planner_002_seed0"]').click()
    wait(page, lambda: text(page, "name") == "reach 2" and text(page, "outcome") == "✓ reached")


def test_it_asks_nothing_of_any_network_and_nothing_goes_wrong(page) -> None:
    press(page, Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    wait(page, lambda: text(page, "name") == "reach 3")
    assert not page.find_elements(By.ID, "broken"), "a scene's name is text"
    events = [json.loads(each["message"])["message"] for each in page.get_log("performance")]
    asked = [each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"]
    assert asked and {url.partition(":")[0] for url in asked} <= {"file", "blob", "data", "about"}
    assert page.get_log("browser") == []


def test_everything_has_a_name_and_nothing_sticks_out_of_a_narrow_window(page) -> None:
    press(page, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    named = """return [...document.querySelectorAll("button, select, input, [role=img], [role=region]")]
      .filter((each) => !(each.getAttribute("aria-label") || each.textContent.trim() || each.labels?.length)).length"""
    assert page.execute_script(named) == 0
    for width in (1280, 420):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        over = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.execute_script(over) <= 0, f"at {width} pixels something sticks out"
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_live_page_grows_with_the_episode(browser, tmp_path, fake_episode, log_line) -> None:
    record = log_line(0, True)
    with LiveReport(tmp_path, title="a run", total=2) as live:
        live.step(record, fake_episode(steps=2))
        opened(browser, live.url)
        wait(browser, lambda: text(browser, "at") == "2 / 2")
        live.step(record, fake_episode(steps=4))
        wait(browser, lambda: text(browser, "at") == "4 / 4")
        assert text(browser, "outcome") == "● running"
        save(tmp_path, record, pack(fake_episode(steps=5)))
        live.finished(record)
        wait(browser, lambda: text(browser, "outcome") == "✓ reached")
        wait(browser, lambda: text(browser, "at") == "5 / 5")
        assert "1/1" in text(browser, "summary") and "1 of 2" in text(browser, "progress")
        live.step(log_line(1, True), fake_episode(steps=1))
        wait(browser, lambda: text(browser, "name") == "reach 1")
        assert browser.get_log("browser") == []


def test_an_address_opens_an_episode_at_a_step(page) -> None:
    url = page.current_url.partition("#")[0]
    opened(page, f"{url}#planner_002_seed0@4")
    assert text(page, "name") == "reach 2" and text(page, "at") == "4 / 6"
    assert Path(url.removeprefix("file://")).exists()
