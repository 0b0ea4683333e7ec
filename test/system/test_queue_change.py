"""From queues of one name and type to others, under load: no message is lost, none is sent twice."""

import itertools
import threading

from harness.audit import audit
from harness.wait import wait_until

OLD = {"RABBIT_QUEUE_TYPE": "classic"}
ALL = ("api-1", "outboxd-1", "consumerd-1")


class Senders:
    """Each sends one message after another, what is refused as well, until it is stopped."""

    def __init__(self, stack, customers):
        self.api = stack.api()
        self.stopped = threading.Event()
        self.refused = []
        self.accepted = itertools.count()
        self.threads = [threading.Thread(target=self._run, args=(customer, kind))
                        for customer, kind in zip(customers, ("normal", "express"))]
        for thread in self.threads:
            thread.start()

    def _run(self, customer, kind):
        while not self.stopped.wait(0.01):
            answer = self.api.send(customer, type=kind)
            if answer.status_code == 200:
                next(self.accepted)
            else:
                self.refused.append(answer.text)

    def stop(self):
        self.stopped.set()
        for thread in self.threads:
            thread.join()


def queues(stack):
    return stack.broker.normal, stack.broker.express


def held(stack):
    """Messages in the queues and in consumers' hands, as the queues themselves say."""
    listed = dict(line.split("\t") for line in stack.backends.rabbitmqctl("-q", "list_queues", "name", "messages").splitlines())
    return [int(listed[queue]) for queue in queues(stack)]


def rows_for(stack, *names):
    return sum(stack.db.value("SELECT COUNT(*) FROM outbox_events WHERE JSON_VALUE(payload,'$.routing_key')=%s", name)
               for name in names)


def test_queues_are_changed_under_load(world):
    stack = world("api", "outboxd", "consumerd", "operators", replicas=2)
    for name in (*ALL, "api-2", "outboxd-2", "consumerd-2"):
        stack.stop(name)
    for queue in queues(stack):
        delete(stack, queue)
    for name in ALL:
        stack.start(name, **OLD)
    new = {"NORMAL_QUEUE": stack.broker.normal + "_new", "EXPRESS_QUEUE": stack.broker.express + "_new",
           "RABBIT_QUEUE_TYPE": "quorum",
           "REPAIR_AFTER_SEC": 5, "REPAIR_INTERVAL_MS": 1000}
    for operator in stack.operators:
        operator.faults(latency_ms=50, status=503, status_share=0.05)
    senders = Senders(stack, [stack.api().funded(1000000) for _ in range(2)])
    try:
        wait_until(lambda: stack.db.value("SELECT COUNT(*) FROM message_status WHERE status='done'") > 100, 30)

        # Who reads the new ones is there before anybody writes to them; who reads the old ones stays for what has their
        # names: in the queues, and in the outbox, where what is put off waits.
        stack.start("consumerd-2", **new)
        stack.start("outboxd-2", **new)
        stack.stop("outboxd-1")
        stack.start("api-2", **new)
        senders.api = stack.api(2)
        stack.stop("api-1")
        before = next(senders.accepted)
        wait_until(lambda: not any(held(stack)) and not rows_for(stack, *queues(stack)), 60, lambda: held(stack))
        stack.stop("consumerd-1")
        assert not any(held(stack)) and not rows_for(stack, *queues(stack))
        for queue in queues(stack):
            delete(stack, queue, if_empty=True)
        wait_until(lambda: next(senders.accepted) > before + 300, 30)
    finally:
        senders.stop()
    assert not senders.refused
    wait_until(lambda: not stack.db.value("SELECT COUNT(*) FROM message_status WHERE status IN ('pending','sending')"), 60)
    assert audit(stack) == []
    for queue in new["NORMAL_QUEUE"], new["EXPRESS_QUEUE"]:
        assert stack.broker.ready(queue) == 0
        delete(stack, queue)


def delete(stack, queue, **how):
    connection = stack.broker.connect()
    connection.channel().queue_delete(queue, **how)
    connection.close()
