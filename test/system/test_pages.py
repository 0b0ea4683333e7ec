"""The pages for people, in a browser that reaches no other host, and the Postman collection. Skipped
where Chromium or newman is not installed: `make pages-test` installs them.
"""

import json
import subprocess

import pytest
from harness import browser
from harness.proxy import FaultProxy
from harness.stack import BUILD, REPOSITORY
from harness.wait import wait_until

NEWMAN = REPOSITORY / "api" / "tools" / "node_modules" / ".bin" / "newman"
COLLECTION = REPOSITORY / "api" / "postman" / "messaging.postman_collection.json"
SEND = "#operations-messages-sendMessage"

in_browser = pytest.mark.skipif(not browser.available(), reason="no Chromium (make pages-test)")
with_swagger = pytest.mark.skipif(not (BUILD / "api" / "swagger" / "swagger-ui-bundle.js").exists(),
                                  reason="built without Swagger UI (make deps)")


@pytest.fixture(scope="module")
def stack(module_world):
    return module_world()


@pytest.fixture(scope="module")
def tab():
    tab = browser.Browser()
    try:
        tab.open("about:blank")
        tab.requests()
        yield tab
    finally:
        tab.close()


@pytest.fixture(autouse=True)
def nothing_from_elsewhere(request, world):
    """Whatever a page has asked for came from this host, and nothing was blocked or has failed. A page goes on asking,
    so it is left before the test's world ends."""
    yield
    if "tab" in request.fixturenames:
        tab = request.getfixturevalue("tab")
        elsewhere = [url for url in tab.requests()
                     if not url.startswith(("http://127.0.0.1:", "data:", "about:"))]
        complaints = tab.complaints()
        tab.open("about:blank")
        assert elsewhere == []
        assert complaints == []


def tile(tab, label):
    """The figure under a label of the status page; None when there is no such tile."""
    return tab.run("""for (const t of document.querySelectorAll(".tile"))
        if (t.children[0].textContent === arguments[0]) return t.children[1].textContent;
        return null;""", label)


def table(tab, title):
    """The cells of a group of the status page, row by row."""
    return tab.run("""for (const s of document.querySelectorAll("section"))
        if (s.querySelector("h2").textContent === arguments[0])
          return [...s.querySelectorAll("tr")].map(r => [...r.children].map(c => c.textContent));
        return null;""", title)


def wait_row(tab, title, check):
    """The table, once one of its rows satisfies check."""
    seen = []

    def there():
        seen[:] = table(tab, title) or []
        return any(check(row) for row in seen)

    wait_until(there, 30, lambda: f"{title}: {seen}", pause=0.2)


@in_browser
@with_swagger
def test_try_it_out_sends_a_message(stack, tab):
    customer = stack.api().funded(10)
    tab.resize(1280, 900)
    tab.open(stack.api().url + "/swagger/")
    tab.click(f"{SEND} .opblock-summary-control")
    body = {"customer_id": customer, "text": "tried out", "recipients": ["0912000001"], "type": "express"}
    tab.fill(f"{SEND} .body-param__text", json.dumps(body))
    tab.click(f"{SEND} button.execute")
    code = tab.wait_text(f"{SEND} .live-responses-table tbody .response-col_status", lambda t: t.strip())
    assert code.split()[0] == "200", tab.text(f"{SEND} .live-responses-table")
    address = tab.text(f"{SEND} .request-url pre")
    assert address == stack.api().url + "/messages/send"
    answer = json.loads(tab.text(f"{SEND} .live-responses-table .highlight-code code"))
    assert answer["status"] == "processing" and answer["price"] == 3
    assert stack.api().wait_final(customer, answer["message_identifier"]) == {"0912000001": "done"}
    assert stack.api().url + "/messages/send" in tab.requests()


@in_browser
def test_the_api_shows_a_send(stack, tab):
    customer = stack.api().funded(10)
    tab.open(stack.api().url + "/status")
    assert tab.wait_text("#state", lambda t: t == "ready")
    assert tab.text("#component") == "msg-api"
    assert tab.text("#dependencies").split() == ["mysql", "ok", "rabbitmq", "ok"]
    assert table(tab, "Operators") is None and table(tab, "Outbox by lane") is None

    def of(row):
        return row[0] == "POST /messages/send" and int(row[5])

    before = max(map(of, table(tab, "Requests")))
    stack.api().sent(customer)
    wait_row(tab, "Requests", lambda row: of(row) == before + 1)
    wait_until(lambda: tile(tab, "requests") not in (None, "–", "0/s"), 30, "a rate of requests")


@in_browser
def test_the_outbox_and_the_consumer_show_it_arriving(stack, tab):
    api = stack.api()
    customer = api.funded(10)
    tab.open(stack.url("outboxd-1") + "/status")
    assert tab.wait_text("#component", lambda t: t == "msg-outboxd")
    sent = api.sent(customer, type="express")
    api.wait_final(customer, sent["message_identifier"])
    wait_row(tab, "Outbox by lane", lambda row: row[0] == "express" and int(row[4]) >= 1)
    tab.open(stack.url("consumerd-1") + "/status")
    wait_row(tab, "Outcomes", lambda row: row[0] == "done by operatorA" and int(row[2]) >= 1)
    assert [row for row in table(tab, "Operators") if row[0] == "breaker"] == [["breaker", "closed", "closed"]]
    assert tab.wait_text("#state", lambda t: t == "ready")


@in_browser
def test_a_warning_shows_and_text_stays_text(world, tab, request):
    """The name of an installation is the one free text on the page."""
    name = "<img src=x onerror=document.title='run'>&amp;"
    stack = world("api", APP_NAME=name)
    proxy = FaultProxy(stack.values["DB_HOST"], int(stack.values["DB_PORT"]))
    request.addfinalizer(proxy.close)
    stack.restart("api-1", DB_HOST="127.0.0.1", DB_PORT=proxy.port)
    tab.open(stack.api().url + "/status")
    tab.wait_text("#about", lambda t: name in t)
    assert tab.run("return document.images.length") == 0
    assert table(tab, "Latest warnings and errors")[0][0] == "none since the start"
    proxy.refuse()
    wait_row(tab, "Latest warnings and errors", lambda row: row[:2] == ["dependency.down", "retry"])
    tab.wait_text("#state", lambda t: t == "not ready")
    assert "mysql unavailable" in tab.text("#dependencies")
    proxy.heal()
    tab.wait_text("#state", lambda t: t == "ready")


@in_browser
def test_a_phone_shows_the_page_without_scrolling_sideways(stack, tab):
    tab.resize(360, 740)
    for name in ("api-1", "outboxd-1", "consumerd-1"):
        tab.open(stack.url(name) + "/status")
        tab.find("section")
        assert tab.run("return document.documentElement.scrollWidth") <= 360


@pytest.mark.skipif(not NEWMAN.exists(), reason="no newman (make pages-test)")
def test_the_postman_collection_is_green(stack):
    done = subprocess.run([NEWMAN, "run", COLLECTION, "--color", "off", "--env-var",
                           f"baseUrl={stack.api().url}"], stdout=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
