"""What arrives twice, and what should never arrive."""

import json
import time
import uuid

import pika

from .cases import case
from .check import Judge, Result
from .load import Load
from .site import Background, Site


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
                        copies[0] += 1
                    held = []
                if not method:
                    connection.sleep(0.02)
            connection.close()

        with Background(copy), Load(site, run.new_seed(), rate=100) as load:
            time.sleep(run.times(15, 4))
            load.end()
            time.sleep(1)
        lifted = time.monotonic()
        result.repetitions = copies[0]
        if copies[0] < len(load.accepted):
            result.violate(f"only {copies[0]} copies of {len(load.accepted)} messages")
        judge.judge(result, load, lifted, replays=20)
        if result.repeats:
            result.violate(f"operators saw {result.repeats} of the copies")
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
    yield result


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
                newer = {**json.loads(body), "a_field_of_tomorrow": {"deep": [1, 2, 3]}}
                channel.basic_publish("", site.broker.normal, json.dumps(newer).encode(), properties)
                result.repetitions += 1
            connection.close()
            lifted = time.monotonic()
            load.end()
            judge.judge(result, load, lifted)
    yield result
