"""AMQP messages as the queues have them, one platform message each or a bundle of several, and a
witness between the queues and the consumers that makes others of them."""

import json
import threading
import time
import uuid
from dataclasses import dataclass, field

import pika
from harness.witness import BUNDLE, members

WITNESS = "witness"  # the application that wrote it
IN_HEADERS = ("traceparent", "tracestate", "accepted_us")  # of a message alone; a member's own in a bundle
HEAD, TAIL = b'{"messages":[', b"]}"
TAKEN_MAX = 200  # by the witness, before it gives back
TAKEN_SEC = 0.3  # … and for so long


def is_bundle(properties):
    return properties is not None and properties.content_type == BUNDLE


def members_of(properties, body):
    """The messages of one AMQP message, each with its trace and its time, as a bundle has them."""
    headers = {} if is_bundle(properties) else properties.headers or {}
    carried = {name: headers[name] for name in IN_HEADERS if name in headers}
    return [{**member, **carried} for member in members(properties, body)]


def _usual(message_id, content_type, headers):
    return pika.BasicProperties(delivery_mode=2, type="message.send", content_type=content_type,
                                message_id=message_id, headers=headers, app_id=WITNESS)


def bundle(parts):
    """(body, properties) of one AMQP message with these members; bytes are members as they are."""
    texts = [m if isinstance(m, bytes) else json.dumps(m, separators=(",", ":")).encode() for m in parts]
    first = next((m["message_identifier"] for m in parts if isinstance(m, dict)), "poison")
    return HEAD + b",".join(texts) + TAIL, _usual(first, BUNDLE, {"bundle": 1})


def alone(member):
    """(body, properties) of one message that travels by itself."""
    headers = {name: member[name] for name in IN_HEADERS if member.get(name)}
    body = {name: value for name, value in member.items() if name not in IN_HEADERS}
    return json.dumps(body).encode(), _usual(member["message_identifier"], "application/json", headers)


def unknown_message(rng, kind):
    message = str(uuid.UUID(int=rng.getrandbits(128)))
    return {"customer_id": 1, "text": "hi", "recipients": ["0912"], "type": kind,
            "transaction_id": "c-" + message, "message_identifier": message}


@dataclass
class Seen:
    """What went by."""

    bundles: int = 0
    singles: int = 0
    members: int = 0  # of bundles
    largest: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def note(self, properties, body):
        with self.lock:
            if not is_bundle(properties):
                self.singles += 1
                return
            n = len(members(properties, body))
            self.bundles += 1
            self.members += n
            self.largest = max(self.largest, n)

    def words(self):
        return (f"{self.bundles} bundles of {self.members} messages, {self.largest} at most, and"
                f" {self.singles} messages alone")


def watch(site, seen):
    """For Background: counts copies of all that is published. While it does, nothing is unroutable."""
    def run(stop):
        connection = site.broker.connect()
        channel = connection.channel()
        tap = channel.queue_declare("", exclusive=True).method.queue
        for queue in (site.broker.express, site.broker.normal):
            channel.queue_bind(tap, site.broker.exchange, queue)
        channel.basic_consume(tap, lambda _c, _m, properties, body: seen.note(properties, body), auto_ack=True)
        while not stop.is_set():
            connection.process_data_events(0.05)
        connection.close()
    return run


def between(site, change, seen=None):
    """For Background: one more consumer, before all others; what it has taken goes back in another form.
    change(queue, members) gives the AMQP messages, (body, properties) each, that take the place of
    those members: published and confirmed before what they came in is acknowledged."""
    def run(stop):
        connection = site.broker.connect()
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_qos(prefetch_count=TAKEN_MAX)
        taken = {site.broker.express: [], site.broker.normal: []}
        tags, own = [], []

        def take(_channel, method, properties, body):
            if properties.app_id == WITNESS:
                own.append(method.delivery_tag)
                return
            taken[method.routing_key] += members_of(properties, body)
            tags.append(method.delivery_tag)
            if seen:
                seen.note(properties, body)

        def give():
            for queue, held in taken.items():
                for body, properties in change(queue, held) if held else ():
                    channel.basic_publish("", queue, body, properties, mandatory=True)
                held.clear()
            for tag in tags:
                channel.basic_ack(tag)
            for tag in own:
                channel.basic_nack(tag, requeue=True)
            tags.clear()
            own.clear()

        # What it gives back would come to it again: in between the others have their turn.
        while not stop.is_set():
            end = time.monotonic() + TAKEN_SEC
            consuming = [channel.basic_consume(queue, take, arguments={"x-priority": 10}) for queue in taken]
            while not stop.is_set() and time.monotonic() < end:
                connection.process_data_events(0.02)
            for consumer in consuming:
                channel.basic_cancel(consumer)
            give()
            connection.sleep(TAKEN_SEC / 2)
        connection.close()
    return run


def cut(whole, rng, largest):
    """In pieces of random sizes."""
    while whole:
        n = rng.randint(1, largest)
        yield whole[:n]
        whole = whole[n:]
