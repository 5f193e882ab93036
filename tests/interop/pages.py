"""The documentation pages in a real browser, and what a person does on them."""

import json
import shutil

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from conftest import PASSWORD, WORK

WAIT = 60  # seconds; a page is there in one or two, unless the machine is busy compiling
ALL_SCOPES = ["llm-keys:read", "llm-keys:write", "audit:read", "admin"]

# Where an element is after the next two frames.
STANDS = """const [element, done] = arguments;
    requestAnimationFrame(() => requestAnimationFrame(() => done(JSON.stringify(element.getBoundingClientRect()))))"""


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

    def __init__(self, browser, desk=None):
        self.browser = browser
        if desk:
            browser.get(f"{desk.url}/docs")
            self.see(".opblock")

    def wait(self, condition, what):
        patience = WebDriverWait(self.browser, WAIT, poll_frequency=0.1, ignored_exceptions=[StaleElementReferenceException])
        return patience.until(lambda _: condition(), what)

    def all(self, selector, inside=None):
        return [one for one in (inside or self.browser).find_elements(By.CSS_SELECTOR, selector) if one.is_displayed()]

    def see(self, selector, inside=None):
        """The first visible element for a CSS selector, waited for."""
        return self.wait(lambda: next(iter(self.all(selector, inside)), None), f"nothing visible for {selector}")

    def click(self, selector, inside=None):
        element = self.see(selector, inside)
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
        # On a phone the page is still on its way to what was typed last.
        place = None
        while place != (place := self.browser.execute_async_script(STANDS, element)):
            pass
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

    # The dialog.

    def open_dialog(self):
        self.click(".auth-wrapper .btn.authorize")
        return self.see("[role=dialog]")

    def form(self, field):
        """The part of the dialog that has this field."""
        return self.see(field).find_element(By.XPATH, "./ancestor::*[contains(@class, 'auth-container')]")

    def authorize(self, scopes=(), **fields):
        """Fills in one of the forms, by the identifiers of its fields, ticks these scopes or the usual one, and authorizes;
        whoever was authorized before is not any more."""
        self.open_dialog()
        while logout := self.all("[role=dialog] .btn[aria-label*='Remove']"):
            logout[0].click()
        form = self.form("#" + next(iter(fields)))
        for field, value in fields.items():
            self.see("#" + field).clear()  # what is there from the last time
            self.see("#" + field).send_keys(value)
        for box in form.find_elements(By.CSS_SELECTOR, "input[data-value]"):
            scope = box.get_attribute("data-value")
            if box.is_selected() != (scope in (scopes or ["llm-keys:read"])):
                self.click(f"input[data-value='{scope}'] + label > .item", inside=form)
        self.click(".btn.authorize", inside=form)
        self.wait(lambda: not self.all("[role=dialog]") or self.all(".errors", inside=form), "no answer")
        assert not self.all("[role=dialog]"), form.text

    def log_in(self, username="admin", password=PASSWORD, scopes=()):
        self.authorize(scopes, oauth_username=username, oauth_password=password)

    # Operations.

    def operation(self, name):
        return self.browser.find_element(By.CSS_SELECTOR, f".opblock[id$='-{name}']")

    def unfold(self, name):
        block = self.operation(name)
        if not self.all(".opblock-body", inside=block):
            self.click(".opblock-summary-control", inside=block)
        return block

    def try_out(self, name):
        """Sends an operation as it is prefilled; the status of the answer, and its body."""
        block = self.unfold(name)
        self.click(".try-out__btn", inside=block)
        self.click(".btn.execute", inside=block)
        return self.wait(lambda: self.answer(block), f"{name} is not answered")

    def answer(self, block):
        live = self.see(".live-responses-table tbody .response", inside=block)
        status = self.see(".response-col_status", inside=live).text.split("\n")
        assert status[1:] == [], status  # "Undocumented"
        body = self.all(".highlight-code pre", inside=live)
        return int(status[0]), body[0].text if body else ""


def assert_self_contained(page, desk):
    complaints = [text for text in page.complaints() if "favicon" not in text]
    assert complaints == []
    asked = page.requests()
    assert any(url.startswith(desk.url + "/") for url in asked)
    # A data: or blob: address leaves the page no more than a variable does.
    assert [url for url in asked if not url.startswith((desk.url + "/", "data:", "blob:"))] == []
