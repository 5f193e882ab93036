"""`/docs` for everybody: axe-core finds nothing serious in it, in light and dark, on a desk and on a phone; a keyboard is enough;
it fits a phone; what moves stands still for those who ask for that."""

import json

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from conftest import PASSWORD, WORK
from pages import Page, browser  # noqa: F401

WIDTHS = {"desk": (1280, 1600), "phone": (390, 844)}


def emulate(browser, width, height, **features):
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 640}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    wanted = [{"name": f"prefers-{name.replace('_', '-')}", "value": value} for name, value in features.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": wanted})


def axe(page):
    """What axe-core finds, and says to be serious or critical."""
    source = (WORK / "node" / "node_modules" / "axe-core" / "axe.min.js").read_text()
    # Not as a script of the page, which its policy would not let in.
    page.browser.execute_cdp_cmd("Runtime.evaluate", {"expression": source})
    found = page.browser.execute_async_script(
        "axe.run(document, { resultTypes: ['violations'] }).then((all) => arguments[0](all.violations))")
    grave = [one for one in found if one["impact"] in ("serious", "critical")]
    return [f"{one['id']}: {node['html'][:200]}" for one in grave for node in one["nodes"]]


def fits(page):
    width, seen = page.browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    return width <= seen


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_stands_in_anybodys_way(desk, browser, width, scheme):
    emulate(browser, *WIDTHS[width], color_scheme=scheme)
    page = Page(browser, desk)
    faults = {}

    def look(state):
        page.photograph(f"docs-{width}-{scheme}-{state}.png")
        if found := axe(page) + ([] if fits(page) else ["it scrolls sideways"]):
            faults[state] = found

    look("closed")
    page.open_dialog()
    look("dialog")
    left, top, right, bottom = browser.execute_script(
        "const box = document.querySelector('.modal-ux').getBoundingClientRect(); return [box.left, box.top, box.right, box.bottom]")
    assert left >= 0 and top >= 0 and right <= WIDTHS[width][0] and bottom <= WIDTHS[width][1]
    page.see("#oauth_username").send_keys("admin")
    page.see("#oauth_password").send_keys("not the right password", Keys.ENTER)
    page.see(".errors")
    look("refused")
    page.see("#oauth_password").clear()
    page.see("#oauth_password").send_keys(PASSWORD, Keys.ENTER)
    page.wait(lambda: not page.all("[role=dialog]"), "the dialog stays open")
    block = page.unfold("getLlmKey")
    look("open")
    page.try_out("getLlmKey")
    look("executed")
    page.click(".btn-clear", inside=block)
    provider = page.see("input[placeholder=provider]", inside=block)
    provider.clear()
    provider.send_keys("opnai")
    page.click(".btn.execute", inside=block)
    assert page.answer(block)[0] == 404
    look("error")
    for name in ("createUser", "issueToken", "listAuditEvents"):
        page.click(".try-out__btn", inside=page.unfold(name))
    look("bodies")
    page.log_in(scopes=["audit:read"])
    page.click(".btn.execute", inside=page.operation("listAuditEvents"))
    assert page.answer(page.operation("listAuditEvents"))[0] == 200
    look("long")
    assert not faults, json.dumps(faults, indent=1)


def test_what_axe_finds_is_found(desk, browser):
    page = Page(browser, desk)
    browser.execute_script("document.body.append(document.createElement('button'))")
    assert any(fault.startswith("button-name") for fault in axe(page))


def test_dark_is_dark(desk, browser):
    emulate(browser, *WIDTHS["desk"], color_scheme="dark")
    page = Page(browser, desk)
    bright = """
        const lightness = (colour) => { const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number); return a && (r + g + b) / 3; };
        return [...document.querySelectorAll('body, body *')].filter((one) => one.checkVisibility()
            && one.getBoundingClientRect().width > 200 && lightness(getComputedStyle(one).backgroundColor) > 128).map((one) => one.className)"""
    page.unfold("createUser")
    assert browser.execute_script(bright) == []
    page.open_dialog()
    assert browser.execute_script(bright) == []


def test_a_finger_hits_what_it_means(desk, browser):
    """WCAG 2.2 §2.5.8, and more where there is room: on a phone, what is pressed often is 44 pixels high."""
    emulate(browser, *WIDTHS["phone"])
    page = Page(browser, desk)
    page.log_in()
    page.try_out("getLlmKey")
    page.open_dialog()
    small = """
        return [...document.querySelectorAll('button, select, input:not([type=checkbox]), .checkbox .item')].filter((one) => one.checkVisibility())
            .map((one) => [one.className || one.outerHTML.slice(0, 80), one.getBoundingClientRect(), one.matches('.btn, select, input') ? 44 : 24])
            .filter(([_, box, least]) => box.height < least || box.width < 24).map(([name, box]) => `${name} ${box.width}x${box.height}`)"""
    assert browser.execute_script(small) == []


def test_nothing_moves_for_who_asks_for_that(desk, browser):
    moving = """return [...document.querySelectorAll('*')].filter((one) => {
        const style = getComputedStyle(one);
        return style.animationName !== 'none' || style.transitionDuration.split(', ').some((time) => parseFloat(time) > 0);
    }).map((one) => one.className)"""
    for motion, expected in (("reduce", False), ("no-preference", True)):
        emulate(browser, *WIDTHS["desk"], reduced_motion=motion)
        page = Page(browser, desk)
        page.open_dialog()
        assert bool(browser.execute_script(moving)) == expected, motion


class Keyboard:
    """Only keys; the focus has to be seen wherever it goes."""

    def __init__(self, page):
        self.page, self.browser = page, page.browser

    def press(self, *keys):
        ActionChains(self.browser).send_keys(*keys).perform()

    @property
    def focused(self):
        return self.browser.switch_to.active_element

    def tab(self, back=False):
        chain = ActionChains(self.browser)
        (chain.key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT) if back else chain.send_keys(Keys.TAB)).perform()
        seen = self.browser.execute_script("""
            const one = document.activeElement, shown = one.type === 'checkbox' && one.nextElementSibling?.querySelector('.item') || one;
            const style = getComputedStyle(shown), box = shown.getBoundingClientRect();
            const there = box.width > 0 && box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth;
            return one === document.body || (there && style.outlineStyle === 'solid' && parseFloat(style.outlineWidth) >= 2) || one.outerHTML.slice(0, 200)""")
        assert seen is True, f"the focus is not seen: {seen}"

    def tab_to(self, selector, most=200):
        for _ in range(most):
            self.tab()
            if self.browser.execute_script("return document.activeElement.matches(arguments[0])", selector):
                return
        raise AssertionError(f"the keyboard does not get to {selector}")


def test_a_keyboard_is_enough(desk, browser):
    page = Page(browser, desk)
    keys = Keyboard(page)
    keys.tab()
    assert "Skip" in keys.focused.text
    keys.press(Keys.ENTER)
    assert "expand-operation" in keys.focused.get_attribute("class")
    keys.tab(back=True)
    assert "authorize" in keys.focused.get_attribute("class")

    # The dialog takes the focus, keeps it, and gives it back.
    keys.press(Keys.ENTER)
    assert keys.focused.get_attribute("id") == "oauth_username"
    inside = "return document.querySelector('[role=dialog]').contains(document.activeElement)"
    visited = set()
    for _ in range(40):
        keys.tab()
        assert browser.execute_script(inside)
        visited.add(keys.focused.id)
    assert 15 < len(visited) < 40
    for _ in range(3):
        keys.tab(back=True)
        assert browser.execute_script(inside)
    keys.press(Keys.ESCAPE)
    page.wait(lambda: not page.all("[role=dialog]"), "Escape does not close the dialog")
    assert "authorize" in keys.focused.get_attribute("class")

    # Log in, and fetch a key.
    keys.press(Keys.ENTER)
    keys.press("admin")
    keys.tab()
    keys.press(PASSWORD, Keys.ENTER)
    page.wait(lambda: not page.all("[role=dialog]"), "the dialog stays open")
    assert "authorize" in keys.focused.get_attribute("class")
    keys.tab_to("[id$='-listLlmKeys'] .opblock-summary-control")
    keys.press(Keys.ENTER)
    page.see(".opblock-body", inside=page.operation("listLlmKeys"))
    keys.tab_to(".try-out__btn")
    keys.press(Keys.SPACE)
    keys.tab_to(".execute")
    keys.press(Keys.ENTER)
    status, body = page.wait(lambda: page.answer(page.operation("listLlmKeys")), "no answer")
    assert (status, json.loads(body)) == (200, desk.expected_keys())
    page.wait(lambda: "200" in browser.find_element("id", "announcement").get_attribute("textContent"), "nothing is read out")


def test_the_introduction_leads_to_its_operation(desk, browser):
    """In the page, not in a new window; and so does an address that somebody was sent."""
    page = Page(browser, desk)
    link = page.click(".info a[href*='listLlmKeys']")
    address = link.get_attribute("href")
    page.see(".opblock-body", inside=page.operation("listLlmKeys"))
    assert len(browser.window_handles) == 1
    page.wait(lambda: browser.execute_script("return document.activeElement.closest('.opblock')?.id.endsWith('-listLlmKeys')"), "no focus")
    browser.get("about:blank")
    browser.get(address)
    page.see("[id$='-listLlmKeys'] .opblock-body")
