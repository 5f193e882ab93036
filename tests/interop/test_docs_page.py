"""The documentation pages in a real browser: log in with the Authorize dialog, try a request out, see the key; and nothing
is fetched from anywhere else."""

import json
import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from conftest import PASSWORD, WORK

WAIT = 60  # seconds; a page is there in one or two, unless the machine is busy compiling


@pytest.fixture
def browser(tmp_path):
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert chromium and driver, "chromium and chromedriver are needed: scripts/test installs them"
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        # No sandbox: it needs a kernel setting that containers do not have, and the only page opened is our own.
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1280,1600",
        f"--user-data-dir={tmp_path / 'profile'}",
        # The page must work where no name resolves.
        "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    window = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    window.set_page_load_timeout(WAIT)
    # What the browser loaded for its own first tab is not ours: leave it, and forget what was noted so far.
    window.get("about:blank")
    for log in ("browser", "performance"):
        window.get_log(log)
    yield window
    window.quit()


class Page:
    """What a person does on a page."""

    def __init__(self, browser):
        self.browser = browser

    def see(self, selector, inside=None):
        """The first visible element for a CSS selector, waited for."""
        place = inside or self.browser
        shown = lambda _: next((one for one in place.find_elements(By.CSS_SELECTOR, selector) if one.is_displayed()), None)
        return WebDriverWait(self.browser, WAIT).until(shown, f"nothing visible for {selector}")

    def click(self, selector, inside=None):
        element = self.see(selector, inside)
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()
        return element

    def photograph(self, name):
        WORK.mkdir(parents=True, exist_ok=True)
        self.browser.save_screenshot(str(WORK / name))

    def requests(self):
        """Every address that the page asked for."""
        messages = (json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance"))
        return [message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"]

    def complaints(self):
        """What stands in the console: security policy violations, failed loads, uncaught errors."""
        return [entry["message"] for entry in self.browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def assert_self_contained(page, desk):
    complaints = [text for text in page.complaints() if "favicon" not in text]
    assert complaints == []
    asked = page.requests()
    assert any(url.startswith(desk.url + "/") for url in asked)
    # A data: or blob: address leaves the page no more than a variable does.
    assert [url for url in asked if not url.startswith((desk.url + "/", "data:", "blob:"))] == []


def test_log_in_and_try_it_out(desk, browser):
    page = Page(browser)
    browser.get(f"{desk.url}/docs")

    page.click(".auth-wrapper .btn.authorize")
    username = page.see("#oauth_username")
    username.send_keys("admin")
    page.see("#oauth_password").send_keys(PASSWORD)
    dialog = username.find_element(By.XPATH, "./ancestor::*[contains(@class, 'auth-container')]")
    page.photograph("docs-authorize.png")
    page.click(".btn.authorize", inside=dialog)
    # The button becomes "Logout" when there is a token.
    WebDriverWait(browser, WAIT).until(lambda _: "logout" in browser.find_element(By.CSS_SELECTOR, ".modal-ux").text.lower())
    page.photograph("docs-authorized.png")
    page.click(".modal-ux .btn-done")

    summary = page.see(".opblock-get .opblock-summary-path[data-path='/llm-keys']")
    operation = summary.find_element(By.XPATH, "./ancestor::div[contains(@class, 'opblock-get')]")
    summary.click()
    page.click(".try-out__btn", inside=operation)
    page.click(".btn.execute", inside=operation)
    live = page.see(".live-responses-table", inside=operation)
    page.photograph("docs-executed.png")
    assert page.see(".response-col_status", inside=live.find_element(By.CSS_SELECTOR, "tbody")).text.split()[0] == "200"
    shown = live.text
    for provider, key in desk.expected_keys().items():
        assert provider in shown and key in shown

    assert_self_contained(page, desk)


def test_a_wrong_password_is_told_in_the_dialog(desk, browser):
    """And not by the browser's own login window, which a `WWW-Authenticate: Basic` would open."""
    page = Page(browser)
    browser.get(f"{desk.url}/docs")
    page.click(".auth-wrapper .btn.authorize")
    username = page.see("#oauth_username")
    username.send_keys("admin")
    page.see("#oauth_password").send_keys("not the right password")
    dialog = username.find_element(By.XPATH, "./ancestor::*[contains(@class, 'auth-container')]")
    page.click(".btn.authorize", inside=dialog)
    assert page.see(".errors", inside=dialog).text
    page.photograph("docs-refused.png")


def test_redoc_renders(desk, browser):
    page = Page(browser)
    browser.get(f"{desk.url}/redoc")
    page.see("h1")
    WebDriverWait(browser, WAIT).until(lambda _: "/llm-keys" in browser.find_element(By.TAG_NAME, "body").text)
    page.photograph("redoc.png")
    assert_self_contained(page, desk)


def test_the_guard_sees_other_hosts(desk, browser):
    """The two assertions above can fail: a page that reaches out is noticed."""
    page = Page(browser)
    browser.get(f"{desk.url}/health")
    browser.execute_script("new Image().src = 'http://127.0.0.1:9/elsewhere.png'")
    WebDriverWait(browser, WAIT).until(lambda _: browser.execute_script("return performance.getEntriesByType('resource').length"))
    with pytest.raises(AssertionError, match="elsewhere.png"):
        assert_self_contained(page, desk)
