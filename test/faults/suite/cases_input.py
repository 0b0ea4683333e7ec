"""What arrives twice, and what should never arrive."""

import json
import time
import uuid
from statistics import median

import pika
from harness.wait import wait_until
from harness.witness import members

from .cases import case
from .cases_stopped import AS_SHIPPED
from .check import Judge, Result
from .load import Load
from .site import PATIENT, Background, Site
from .watch import cpu_sec


@case("delivered twice", "every message delivered twice, the copies late and in another order")
def delivered_twice(run):
    result = Result("delivered twice", "every message delivered twice by the broker, the copies in"
                    " another order", unit="copies")
    with Site("twice", run.servers, replicas={"api": 1, "outboxd": 1, "consumerd": 2}) as site:
        site.up()
        judge = Judge(site)
        copies = [0]

        def copy(stop):
            connection = site.broker.connect()
            channel = connection.channel()
            tap = channel.queue_declare("", exclusive=True).method.queue
            for queue in (site.broker.express, site.broker.normal):
                channel.queue_bind(tap, site.broker.exchange, queue)
            held, last = [], time.monotonic()
            while not stop.is_set() or held:
                method, properties, body = channel.basic_get(tap, auto_ack=True)
                if method:
                    held.append((method.routing_key, properties, body))
                    last = time.monotonic()
                if len(held) > 30 or (held and time.monotonic() - last > 0.3):
                    run.rng.shuffle(held)
                    for queue, properties, body in held:
                        channel.basic_publish("", queue, body, properties)
                        copies[0] += len(members(properties, body))
                    held = []
                if not method:
                    connection.sleep(0.02)
            connection.close()

        with Background(copy), Load(site, run.new_seed(), rate=100, rejected_share=0) as load:
            time.sleep(run.times(15, 4))
            load.end()
            time.sleep(1)
        lifted = time.monotonic()
        result.repetitions = copies[0]
        if copies[0] < len(load.accepted):
            result.violate(f"only {copies[0]} copies of {len(load.accepted)} messages")
        judge.judge(result, load, lifted, replays=20)
        calls = sum(o.counts()["requests"] for o in site.operators)
        if result.repeats or calls != len(load.accepted):
            result.violate(f"operators were called {calls} times for {len(load.accepted)} messages")
    yield result


def poisons(rng):
    """(queue or None for both, body, properties)"""
    message = str(uuid.UUID(int=rng.getrandbits(128)))
    good = {"customer_id": 1, "text": "hi", "recipients": ["0912"], "type": "normal",
            "transaction_id": "c-" + message, "message_identifier": message}

    def kind(**changes):
        return json.dumps({k: v for k, v in {**good, **changes}.items() if v is not None}).encode()

    usual = {"type": "message.send", "content_type": "application/json"}
    return [(b"", usual), (b"{", usual), (b"\xff\xfe\x00", usual), (b"[]", usual), (b"null", usual),
            (b"[" * 100_000, usual), (kind(message_identifier=None), usual),
            (kind(message_identifier=7), usual), (kind(message_identifier="x" * 10_000), usual),
            (kind(recipients="0912"), usual), (kind(recipients=[1, None]), usual),
            (kind(recipients=None), usual), (kind(type="telegram"), usual),
            (kind(customer_id="1; DROP TABLE messages"), usual),
            (kind(), usual),  # well formed, of a message that nobody has
            (kind(), {"type": "message.send.v9", "content_type": "application/json"}),
            (b"x" * (16 << 20), usual),
            (json.dumps({**good, "text": "x" * (16 << 20)}).encode(), usual)]


@case("poison", "poison in the queues: no JSON, wrong fields, unknown version, missing rows, 16 MiB",
      short=True)
def poison(run):
    title = "poison in the queues: no JSON, wrong fields, unknown version, missing rows, 16 MiB"
    result = Result("poison", title, unit="messages of poison")
    with Site("poison", run.servers, replicas=1) as site:
        site.up()
        judge = Judge(site)
        with Load(site, run.new_seed(), rate=100) as load:
            time.sleep(1)
            connection = site.broker.connect()
            channel = connection.channel()
            channel.confirm_delivery()
            for _ in range(run.times(3)):
                for body, properties in poisons(run.rng):
                    queue = run.rng.choice([site.broker.express, site.broker.normal])
                    channel.basic_publish(site.broker.exchange, queue, body,
                                          pika.BasicProperties(delivery_mode=2, **properties),
                                          mandatory=True)
                    result.repetitions += 1
            connection.close()
            lifted = time.monotonic()
            load.end()
            judge.judge(result, load, lifted, dead=result.repetitions)
            tries = most_deliveries(site)
            result.notes.append(f"a letter was delivered {tries} times at most before it was dead")
            if tries > ATTEMPTS_MAX:
                result.violate(result.notes[-1])
    yield result


ATTEMPTS_MAX = 5


def most_deliveries(site):
    """Takes the dead letters; how often the one with the most was delivered, by RabbitMQ's count."""
    most = 0
    while letter := site.broker.get(site.broker.dead):
        most = max(most, 1 + (letter[0].headers or {}).get("x-delivery-count", 0))
    return most


HEALTHY = 5000
POISON_SHARE = 0.015
COST_MAX = 1.05


@case("poison's cost", "healthy traffic beside poison")
def poison_cost(run):
    """Queues filled while nobody consumes are drained, with poison among them and without, in turn.
    One message of 16 MiB costs the broker and the network more than a thousand healthy ones: those are
    looked at apart."""
    title = (f"{POISON_SHARE:.1%} of poison among {HEALTHY} queued messages: the healthy ones take less than"
             " 5 % more")
    result = Result("poison's cost", title, unit="queues drained")
    costs = {True: [], False: []}
    with Site("cost", run.servers, replicas=1, told=0, **PATIENT, OPERATOR_TIMEOUT_MS=4000,
              BREAKER_SLOW_PCT=101, **AS_SHIPPED) as site:
        site.up()
        judge = Judge(site)
        for n in range(run.times(12, 4)):
            poisoned = n % 4 in (1, 2)  # what drifts is as much on both sides
            costs[poisoned].append(drain(run, site, judge, result, poisoned))
            result.repetitions += 1
    judge_cost(result, *(list(zip(*costs[poisoned])) for poisoned in (True, False)))
    yield result


def judge_cost(result, poisoned, clean):
    """A drain takes a second or two, and what else the machine does shows in it: a slowness that is
    poison's shows in the best times and in the medians. CPU time says it more exactly."""
    best, typical = (f(poisoned[0]) / f(clean[0]) for f in (min, median))
    cpu, cpu_0 = median(poisoned[1]), median(clean[1])
    result.notes.append(f"{HEALTHY / min(poisoned[0]):.0f} and {HEALTHY / min(clean[0]):.0f} healthy messages"
                        f" a second with and without, at best; ratio of the best times {best:.3f}, of"
                        f" the medians {typical:.3f}; msg-consumerd used"
                        f" {cpu / HEALTHY * 1e6:.0f} and {cpu_0 / HEALTHY * 1e6:.0f} µs of CPU a message,"
                        f" ratio of the medians {cpu / cpu_0:.3f}")
    if max(min(best, typical), cpu / cpu_0) > COST_MAX:
        result.violate(result.notes[-1])


def drain(run, site, judge, result, poisoned):
    """(seconds from the first healthy message that is done to the last, CPU seconds of msg-consumerd)"""
    consumer = site["consumerd-1"]
    consumer.terminate()
    small = [p for p in poisons(run.rng) if len(p[0]) < 1_000_000]
    every = round(1 / POISON_SHARE)
    published = 0
    connection = site.broker.connect()
    channel = connection.channel()
    with Load(site, run.new_seed(), rate=5000, rejected_share=0, connections=16) as load:
        while len(load.accepted) < HEALTHY:
            if poisoned and published < len(load.accepted) // every:
                body, properties = small[published % len(small)]
                queue = run.rng.choice([site.broker.express, site.broker.normal])
                channel.basic_publish(site.broker.exchange, queue, body,
                                      pika.BasicProperties(delivery_mode=2, **properties))
                published += 1
            else:
                connection.sleep(0.005)
        load.end()
        connection.close()
        wait_until(lambda: not site.db.value("SELECT COUNT(*) FROM outbox_events"), 60, "all is queued")
        consumer.start().wait_ready()
        judge.judge(result, load, time.monotonic(), dead=published, replays=0)
    used = cpu_sec(consumer)
    if poisoned:
        most_deliveries(site)
    wall = site.db.value("SELECT TIMESTAMPDIFF(MICROSECOND,MIN(updated_at),MAX(updated_at))/1e6 FROM"
                         " message_status WHERE user_id BETWEEN %s AND %s", load.customers[0],
                         load.customers[-1])
    share = HEALTHY / len(load.accepted)
    return float(wall) * share, used * share


@case("known fields", "messages with fields this version does not know")
def unknown_fields(run):
    """A newer publisher may add fields: they are no reason to refuse."""
    result = Result("known fields", "copies of messages with fields this version does not know",
                    unit="messages")
    with Site("fields", run.servers, replicas=1) as site:
        site.up()
        judge = Judge(site)
        with Load(site, run.new_seed(), rate=50) as load:
            connection = site.broker.connect()
            channel = connection.channel()
            tap = channel.queue_declare("", exclusive=True).method.queue
            channel.queue_bind(tap, site.broker.exchange, site.broker.normal)
            end = time.monotonic() + 4
            while time.monotonic() < end:
                method, properties, body = channel.basic_get(tap, auto_ack=True)
                if not method:
                    connection.sleep(0.05)
                    continue
                newer = json.loads(body)
                for message in newer.get("messages", [newer]):
                    message["a_field_of_tomorrow"] = {"deep": [1, 2, 3]}
                    result.repetitions += 1
                channel.basic_publish("", site.broker.normal,
                                      json.dumps(newer, separators=(",", ":")).encode(), properties)
            connection.close()
            lifted = time.monotonic()
            load.end()
            judge.judge(result, load, lifted)
    yield result
