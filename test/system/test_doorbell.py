"""The doorbell: rows that are committed are looked for at once, and nothing but latency depends on it."""

import threading
import time

import pytest
import requests
from harness.audit import audit, quiesce
from harness.wait import wait_until

IDLE_MS = 5000  # far longer than a message may take when its ring is heard
QUIET = {"OUTBOX_IDLE_POLL_MS": IDLE_MS, "OUTBOX_FULL_LOOK_MS": 600000}


def metric(stack, name, family, **labels):
    """The sum of a family's samples that have these labels."""
    text = requests.get(stack.url(name) + "/metrics", timeout=5).text
    wanted = [f'{k}="{v}"' for k, v in labels.items()]
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
               if line.startswith((family + "{", family + " ")) and all(w in line for w in wanted))


def hears(stack, name="outboxd-1"):
    return metric(stack, name, "msg_doorbell_hears") == 1


def dropped(stack):
    stack.api().sent(stack.api().funded(1))
    return metric(stack, "api-1", "msg_doorbell_rings_total", result="dropped")


def bell_of(stack):
    return stack.broker.exchange + ".doorbell"


def on_channel(stack, act):
    connection = stack.broker.connect()
    try:
        return act(connection.channel())
    finally:
        connection.close()


LOOKS = [f"outbox_look_{look}" for look in ("fresh", "lagged", "full", "due", "ask", "ahead")]


def asked(stack, name, query):
    return metric(stack, name, "db_queries_total", query=query)


def at_rest(stack, sec):
    """No lane has looked for that long; peeks do not count."""
    seen = []

    def none():
        seen.append([asked(stack, "outboxd-1", look) for look in LOOKS])
        return len(seen) > 1 and seen[-1] == seen[-2]

    wait_until(none, 30, "the lanes rest", pause=sec)


def ready(stack):
    """Its bell hangs, and the lanes have come to rest."""
    wait_until(lambda: hears(stack), 30, "rings can arrive")
    at_rest(stack, 0.3)  # the look that follows is over: no poll is due by chance


def seconds_until_done(stack, api, customer, **send):
    began = time.monotonic()
    identifier = api.sent(customer, **send)["message_identifier"]
    assert set(api.wait_final(customer, identifier, 30).values()) == {"done"}
    return time.monotonic() - began


@pytest.mark.parametrize("lane", ["express", "normal"])
def test_a_ring_wakes_an_idle_lane(world, lane):
    stack = world(**QUIET)
    ready(stack)
    api = stack.api()
    customer = api.funded(1000)
    took = sorted(seconds_until_done(stack, api, customer, type=lane) for _ in range(5))
    assert took[2] < 1 and took[4] < IDLE_MS / 1000 / 2, took
    assert metric(stack, "outboxd-1", "msg_doorbell_heard_total", lane=lane) >= 1


def test_many_commits_make_few_rings(world):
    stack = world(**QUIET)
    ready(stack)
    apis = [stack.api() for _ in range(8)]
    customer = apis[0].funded(100000)
    before = metric(stack, "api-1", "msg_doorbell_rings_total")
    assert before == 0, "a top-up rings for nothing"
    began = time.monotonic()
    identifiers = []

    def send(api):
        for _ in range(50):
            identifiers.append(api.sent(customer)["message_identifier"])

    threads = [threading.Thread(target=send, args=(api,)) for api in apis]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    elapsed = time.monotonic() - began
    assert len(identifiers) == 400
    rings = metric(stack, "api-1", "msg_doorbell_rings_total", result="sent", lane="normal")
    assert 1 <= rings <= 1 + elapsed / 0.004, (rings, elapsed)
    assert rings < len(identifiers), rings
    assert metric(stack, "api-1", "msg_doorbell_rings_total", lane="express") == 0
    quiesce(stack)
    assert audit(stack) == []


def test_lost_rings_cost_an_idle_poll(world):
    """The exchange is somebody else's of another type: the API cannot ring at all, and says so once."""
    stack = world("api", "outboxd", "consumerd", "operators", OUTBOX_IDLE_POLL_MS=1500, OUTBOX_FULL_LOOK_MS=600000)
    ready(stack)
    on_channel(stack, lambda c: c.exchange_delete(bell_of(stack)))
    on_channel(stack, lambda c: c.exchange_declare(bell_of(stack), "topic", durable=True))
    stack.restart("api-1")
    api = stack.api()
    customer = api.funded(1000)
    wait_until(lambda: "doorbell.refused" in stack.log_text("api-1"), 20, "the API says that it cannot ring")
    took = [seconds_until_done(stack, api, customer, type="express") for _ in range(4)]
    assert max(took) < 1.5 + 1.5, took
    body = requests.get(stack.url("api-1") + "/readyz", timeout=5).json()
    assert body["status"] == "ready" and [w for w in body["warnings"] if bell_of(stack) in w], body
    assert stack.log_text("api-1").count('"event":"doorbell.refused"') == 1
    assert metric(stack, "api-1", "msg_doorbell_rings_total", result="sent") == 0


def test_a_bell_that_was_taken_down_hangs_again(world):
    """An exchange that is deleted takes the binding along, and nobody is told."""
    stack = world(**QUIET)
    ready(stack)
    api = stack.api()
    customer = api.funded(1000)
    on_channel(stack, lambda c: c.exchange_delete(bell_of(stack)))
    assert seconds_until_done(stack, api, customer) < IDLE_MS / 1000 + 2
    wait_until(lambda: seconds_until_done(stack, api, customer) < 1, 40, "rings are heard again")
    queues = requests.get(f"{stack.broker.management}/queues/%2F", auth=stack.broker.login, timeout=10).json()
    ours = [q for q in queues if q["name"].startswith(bell_of(stack) + ".")]
    assert len(ours) == 1 and ours[0]["exclusive"] and ours[0]["auto_delete"], ours
    assert ours[0]["arguments"]["x-max-length"] == 1, ours


def test_without_permission_everything_goes_on_as_it_did(world):
    stack = world("api", "operators", "consumerd", OUTBOX_IDLE_POLL_MS=60000)
    broker, name = stack.broker, stack.broker.exchange.replace(".", "-") + "-narrow"
    rights = dict.fromkeys(("configure", "write", "read"),
                           f"^({broker.exchange}|{broker.exchange}\\.dead|{broker.express}|{broker.normal})$")
    management = f"{broker.management}"
    for path, body in ((f"users/{name}", {"password": "narrow", "tags": ""}),
                       (f"permissions/%2F/{name}", rights)):
        assert requests.put(f"{management}/{path}", json=body, auth=broker.login, timeout=10).status_code in (201, 204)
    try:
        host = broker.uri.rpartition("@")[2]
        stack.start("outboxd-1", RABBIT_URI=f"amqp://{name}:narrow@{host}")
        api = stack.api()
        customer = api.funded(1000)
        took = [seconds_until_done(stack, api, customer) for _ in range(5)]
        assert max(took) < 3, took
        wait_until(lambda: "doorbell.refused" in stack.log_text("outboxd-1"), 20, "it says why")
        body = requests.get(stack.url("outboxd-1") + "/readyz", timeout=5).json()
        assert body["status"] == "ready" and [w for w in body["warnings"] if "doorbell" in w], body
        assert not hears(stack)
        assert stack.log_text("outboxd-1").count('"event":"doorbell.refused"') == 1
        stack.stop("outboxd-1")
    finally:
        requests.delete(f"{management}/users/{name}", auth=broker.login, timeout=10)


def test_put_off_rows_leave_on_time_while_idle(world):
    """Rows that others have put off, without any ring: at their time, once a peek has seen them."""
    stack = world("api", "outboxd-1", "operators", OUTBOX_IDLE_POLL_MS=1000)
    ready(stack)
    stack.stop("outboxd-1")
    api = stack.api()
    customer = api.funded(100)
    for _ in range(3):
        api.sent(customer)
    columns = "kind,aggregate_type,aggregate_id,event_type,payload,priority"
    stack.db.execute(f"CREATE TABLE kept AS SELECT id,{columns} FROM outbox_events")
    stack.db.execute("DELETE FROM outbox_events")
    stack.start("outboxd-1")
    ready(stack)
    late = []
    for (identifier,) in stack.db.rows("SELECT id FROM kept ORDER BY id"):
        stack.db.execute(f"INSERT INTO outbox_events({columns},next_run_at) SELECT {columns},"
                         "NOW(6)+INTERVAL 2500000 MICROSECOND FROM kept WHERE id=%s", identifier)
        began = time.monotonic()
        wait_until(lambda: stack.db.value("SELECT COUNT(*) FROM outbox_events") == 0, 20, "it leaves", pause=0.02)
        late.append(time.monotonic() - began - 2.5)
    assert min(late) > -0.1 and sorted(late)[1] < 1, late
    assert metric(stack, "outboxd-1", "db_queries_total", query="outbox_look_due") < 20


def test_the_broker_restarts_and_the_bell_hangs_again(fragile, own_servers):
    stack = fragile(**QUIET)
    ready(stack)
    api = stack.api()
    customer = api.funded(1000)
    own_servers.restart("rabbitmq")
    assert seconds_until_done(stack, api, customer) < 60
    ready(stack)
    wait_until(lambda: seconds_until_done(stack, api, customer) < 1, 60, "rings are heard again")
    quiesce(stack)
    assert audit(stack) == []


def test_a_broker_that_blocks_delays_no_send(fragile, own_servers):
    """In a memory alarm: sends are answered, and when it is over messages flow and rings are heard."""
    stack = fragile(**QUIET)
    ready(stack)
    api = stack.api()
    customer = api.funded(1000)
    own_servers.rabbitmqctl("set_vm_memory_high_watermark", "0")
    try:
        wait_until(lambda: api.sent(customer) and metric(stack, "outboxd-1", "msg_broker_blocked") == 1, 30,
                   "an alarm", pause=0.1)
        took = []
        for _ in range(20):
            began = time.monotonic()
            api.sent(customer)
            took.append(time.monotonic() - began)
        assert max(took) < 2, took
        assert stack.status("api-1") == 200
        wait_until(lambda: dropped(stack) > 0, 10, "rings are dropped", pause=0.1)
    finally:
        own_servers.rabbitmqctl("set_vm_memory_high_watermark", "0.4")
    quiesce(stack)
    wait_until(lambda: seconds_until_done(stack, api, customer) < 1, 60, "rings are heard again")
    assert audit(stack) == []




def test_a_platform_at_rest_asks_seldom(world):
    """What wakes by itself: peeks, samples, probes; no transaction is begun for nothing."""
    stack = world()
    ready(stack)
    api = stack.api()
    customer = api.funded(1000)
    for lane in ("express", "normal"):
        assert seconds_until_done(stack, api, customer, type=lane) < 30
    quiesce(stack)
    at_rest(stack, 3)  # longer than between two looks at everything

    queries = [("api-1", "outbox_sample"), ("outboxd-1", "outbox_peek"), *(("outboxd-1", look) for look in LOOKS)]
    before = {q: asked(stack, *q) for q in queries}
    began = time.monotonic()
    time.sleep(6)
    counts = {q[1]: asked(stack, *q) - before[q] for q in queries}
    elapsed = time.monotonic() - began
    assert 2 * 4 <= counts.pop("outbox_peek") <= 2 * (elapsed + 1), counts
    assert counts.pop("outbox_sample") <= elapsed + 1, counts
    assert sum(counts.values()) == 0, counts
