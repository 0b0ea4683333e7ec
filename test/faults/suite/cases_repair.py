"""The repair job: what is lost comes back, and what is merely waiting is left alone."""

import shutil
import time
from pathlib import Path

import requests
from harness.wait import wait_until

from .bundles import is_bundle
from .cases import case
from .check import Judge, Result
from .load import Load
from .site import PATIENT, REPAIR_QUICK, Background, Site
from .watch import total


def repair_case(case_name, title, shared, times, lose):
    @case(case_name, title, shared=shared)
    def repaired(run):
        result = Result(case_name, title, unit="times")
        servers = run.servers if shared else run.own_servers()
        with Site("repair", servers, replicas=1, **REPAIR_QUICK, **PATIENT) as site:
            site.up()
            judge, bundles = Judge(site), 0
            with Load(site, run.new_seed(), rate=80) as load:
                for _ in range(run.times(times)):
                    time.sleep(2)
                    bundles += fill_queues(site)
                    lose(site, servers)
                    site.up()
                    lifted = time.monotonic()
                    result.repetitions += 1
                load.end()
                judge.judge(result, load, lifted, deadline=180)
            if not site.db.value("SELECT SUM(repairs) FROM messages"):
                result.violate("nothing was repaired: nothing was lost")
            if not bundles:
                result.violate("no bundle was lost")
        yield result


def fill_queues(site):
    """The consumers are stopped until there is something to lose; how many queues begin with a bundle."""
    for daemon in site.of("consumerd"):
        daemon.terminate()
    site.heap(0.7)
    wait_until(lambda: queued(site) > 50, 20, "messages in the queues")
    return sum(is_bundle(first(site, queue)) for queue in queues(site))


def queues(site):
    return site.broker.express, site.broker.normal


def queued(site):
    """Messages, whatever they travel in."""
    return site.db.value("SELECT (SELECT COUNT(*) FROM message_status WHERE status='pending')"
                         " - (SELECT COUNT(*) FROM outbox_events)")


def first(site, queue):
    """The properties of what stands first in a queue, and stays there."""
    connection = site.broker.connect()
    try:
        return connection.channel().basic_get(queue)[1]
    finally:
        connection.close()


def purge(site, servers):
    for name in queues(site):
        response = requests.delete(f"{site.broker.management}/queues/%2F/{name}/contents",
                                   auth=site.broker.login, timeout=10)
        assert response.status_code == 204, response.text


def empty_broker(site, servers):
    servers.kill("rabbitmq")
    shutil.rmtree(Path(servers.state) / "rabbitmq" / "mnesia")
    servers.start("rabbitmq")


repair_case("queue purged", "queues purged with messages and bundles in them", True, 10, purge)
repair_case("broker empty", "RabbitMQ restarted with an empty data folder", False, 3, empty_broker)

# Two seconds without progress are suspicious, and a search comes five times a second.
REPAIR_EAGER = {"REPAIR_AFTER_SEC": 2, "REPAIR_INTERVAL_MS": 200}
# Few slots and short prefetches, so that most waits in the queues; no breaker, so that what is in
# hand is in hand for seconds, and then is put off in the outbox.
NARROW = {"NORMAL_PREFETCH": 100, "EXPRESS_PREFETCH": 50, "OPERATOR_MAX_IN_FLIGHT": 20,
          "OPERATOR_MAX_IN_FLIGHT_EXPRESS": 10, "BREAKER_FAILURES": 1000, "BREAKER_FAILURE_PCT": 101,
          "BREAKER_SLOW_PCT": 101, "OPERATOR_TIMEOUT_MS": 1000, "OPERATOR_TRIES": 2,
          "DELIVERY_RETRY_WINDOW_SEC": 900, "DELIVERY_RETRY_BASE_MS": 1000,
          "DELIVERY_RETRY_MAX_MS": 10000}


class Waiting:
    """The most there ever was of what waits where it should."""

    def __init__(self, site):
        self.site = site
        self.queued = self.held = self.put_off = self.candidates = 0

    def __call__(self, stop):
        site = self.site
        while not stop.wait(1):
            ready = queued(site)
            held = total(site.of("consumerd"), "msg_recipients_in_hand")
            put_off = site.db.value("SELECT COUNT(*) FROM outbox_events WHERE next_run_at>NOW(6)")
            found = total(site.of("consumerd"), "msg_repair_candidates")
            self.queued, self.held = max(self.queued, ready), max(self.held, held)
            self.put_off, self.candidates = max(self.put_off, put_off), max(self.candidates, found)


@case("long outage", "both operators down for long: the repair leaves alone what waits")
def long_outage(run):
    outage = run.times(75, 20)
    result = Result("long outage", f"both operators down for {outage} s, the repair after 2 s (an hour's"
                    " worth in short): nothing that is queued, held or put off is repaired", unit="times")
    with Site("outage", run.servers, replicas={"api": 1, "outboxd": 2, "consumerd": 2}, **REPAIR_EAGER,
              **NARROW) as site:
        site.up()
        judge, waiting = Judge(site), Waiting(site)
        with Load(site, run.new_seed(), rate=120, rejected_share=0) as load, Background(waiting):
            site.operators_do(hang_share=0.5, status=503, status_share=0.5)
            time.sleep(outage * 2 / 3)
            site.operators_do(refuse=True)
            time.sleep(outage / 3)
            searches = total(site.of("consumerd"), "db_queries_total", query="repair_walk")
            site.operators_do()
            lifted = time.monotonic()
            result.repetitions = 1
            load.end()
            judge.judge(result, load, lifted, deadline=180)
        result.notes.append(f"at most {waiting.queued:.0f} in the queues, {waiting.held:.0f} in hand,"
                            f" {waiting.put_off:.0f} put off; {waiting.candidates:.0f} without progress"
                            f" in {searches:.0f} searches")
        if min(waiting.queued, waiting.candidates) < 10 * outage or waiting.put_off < outage \
                or waiting.held < 20 or searches < outage / 2:
            result.violate("too little waited to prove anything: " + result.notes[-1])
        repaired = total(site.of("consumerd"), "msg_repaired_total")
        rows = site.db.value("SELECT COUNT(*) FROM messages WHERE repairs>0")
        open_ones = site.db.value("SELECT COUNT(*) FROM message_status WHERE status<>'done'")
        if repaired or rows or open_ones:
            result.violate(f"{repaired:.0f} repairs of {rows} messages, {open_ones} recipients not done")
    yield result
