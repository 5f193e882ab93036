"""The documentation pages in a real browser: log in with the Authorize dialog, try every operation out as it is prefilled, see
keys; and nothing is fetched from anywhere else."""

import json

import pytest
from selenium.webdriver.support.ui import WebDriverWait

from pages import ALL_SCOPES, WAIT, Page, assert_self_contained, browser  # noqa: F401


def expect_keys(page, desk):
    status, body = page.try_out("listLlmKeys")
    assert (status, json.loads(body)) == (200, desk.expected_keys())


def test_a_first_visit(desk, browser):
    """Authorize, open, try it out, execute: the scope that is needed is ticked, and the parameters are filled in."""
    page = Page(browser, desk)
    page.open_dialog()
    page.photograph("docs-authorize.png")
    page.click("[role=dialog] .close-modal")
    page.log_in()
    page.photograph("docs-authorized.png")
    expect_keys(page, desk)
    page.photograph("docs-executed.png")
    assert_self_contained(page, desk)


def test_a_service_account_logs_in_with_its_secret(desk, browser):
    made = desk.cli_json("service-account", "add", "robot", "--project", "default")
    page = Page(browser, desk)
    page.authorize(client_id_clientCredentials=made["client_id"], client_secret_clientCredentials=made["client_secret"])
    expect_keys(page, desk)
    assert json.loads(page.try_out("getMe")[1])["name"] == "robot"
    assert_self_contained(page, desk)


def test_an_api_key_will_do(desk, browser):
    page = Page(browser, desk)
    page.authorize(api_key_value=desk.service_api_key)
    expect_keys(page, desk)
    assert json.loads(page.try_out("getMe")[1])["credential"] == "api_key"
    assert_self_contained(page, desk)


def test_a_wrong_password_is_told_in_the_dialog(desk, browser):
    """And not by the browser's own login window, which a `WWW-Authenticate: Basic` would open."""
    page = Page(browser, desk)
    page.open_dialog()
    form = page.form("#oauth_username")
    page.see("#oauth_username").send_keys("admin")
    page.see("#oauth_password").send_keys("not the right password")
    page.click(".btn.authorize", inside=form)
    assert "the user name or password is not right" in page.see(".errors", inside=form).text
    page.wait(lambda: "not right" in browser.find_element("id", "announcement").get_attribute("textContent"), "nothing is read out")
    page.photograph("docs-refused.png")


# Every operation, each when what it needs is there and nobody misses what it takes away: who sends them, and in which order.
ALICE = {"username": "alice", "password": "lantern-orbit-fjord-maple"}
STORY = [
    ({"scopes": ALL_SCOPES}, [
        "getHealth", "getReadiness", "getJwks", "getAuthorizationServerMetadata", "getProtectedResourceMetadata",
        "createProject", "getProject", "listProjects", "setProviderKey", "getProviderKey", "listProviderKeys",
        "createUser", "getUser", "updateUser", "listUsers", "setGrant", "listGrants",
        "createUserApiKey", "listUserApiKeys", "revokeUserApiKey",
        "createServiceAccount", "getServiceAccount", "listServiceAccounts", "updateServiceAccount", "rotateClientSecret",
        "createServiceAccountApiKey", "listServiceAccountApiKeys", "revokeServiceAccountApiKey",
        "issueToken", "introspectToken", "revokeToken",
    ]),
    (ALICE, [
        "listLlmKeys", "getLlmKey", "getMe", "createMyApiKey", "listMyApiKeys", "revokeMyApiKey", "listMySessions", "endMySession",
    ]),
    (ALICE, ["changeMyPassword"]),
    ({"scopes": ALL_SCOPES}, [
        "setUserPassword", "resetUserPassword", "listAuditEvents", "deleteGrant", "deleteProviderKey", "deleteProject",
        "deleteUser", "deleteServiceAccount", "listSigningKeys", "rotateSigningKey",
    ]),
]


def test_every_operation_works_as_it_is_prefilled(new_desk, browser):
    """On a new desk, whose own keys are all there afterwards."""
    desk = new_desk().start()
    document = desk.get("/openapi.json").json()
    described = {operation["operationId"]: operation for item in document["paths"].values() for operation in item.values()}
    assert sorted(described) == sorted(name for _, names in STORY for name in names)
    page = Page(browser, desk)
    for who, names in STORY:
        page.log_in(**who)
        for name in names:
            status, body = page.try_out(name)
            answer = described[name]["responses"][str(status)]
            assert 200 <= status < 300, f"{name}: {status} {body}"
            example = answer.get("content", {}).get("application/json", {}).get("example")
            assert bool(example) == bool(body), name
            # What is shown as an example is what comes, but for the values.
            if example and name != "listLlmKeys":
                assert json.loads(body).keys() == example.keys(), name
            page.click(".opblock-summary-control", inside=page.operation(name))
    assert_self_contained(page, desk)
    page.log_in()
    browser.get(f"{desk.url}/docs")
    page.log_in()
    expect_keys(page, desk)
    desk.stop()


def test_redoc_renders(desk, browser):
    page = Page(browser)
    browser.get(f"{desk.url}/redoc")
    page.see("h1")
    WebDriverWait(browser, WAIT).until(lambda _: "/llm-keys" in browser.find_element("tag name", "body").text)
    page.photograph("redoc.png")
    assert_self_contained(page, desk)


def test_the_guard_sees_other_hosts(desk, browser):
    """The assertions above can fail: a page that reaches out is noticed."""
    page = Page(browser)
    browser.get(f"{desk.url}/health")
    browser.execute_script("new Image().src = 'http://127.0.0.1:9/elsewhere.png'")
    WebDriverWait(browser, WAIT).until(lambda _: browser.execute_script("return performance.getEntriesByType('resource').length"))
    with pytest.raises(AssertionError, match="elsewhere.png"):
        assert_self_contained(page, desk)
