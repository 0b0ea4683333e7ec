"""The doorbell: it makes publishers look at once, and nothing but that depends on it."""

import time

from harness.wait import wait_until

from .cases import case
from .cases_bundles import managed
from .check import Judge, Result
from .load import Load
from .site import Background, Site
from .watch import cpu_sec

PACE_SEC = 1.5       # for 99 of 100, from accepted to done, while nobody rings: the pace of looks, on a busy machine
SILENT_SEC = 4
STORM_CORE = 0.6     # of a core, that a publisher uses while it is rung at all the time


def bell(site):
    return f"{site.broker.exchange}.doorbell"


def deleted(site, servers):
    """The exchange goes, again and again."""
    for _ in range(10):
        managed(site, "DELETE", f"exchanges/%2F/{bell(site)}", fine=(404,))
        yield SILENT_SEC / 10


def redeclared(site):
    """False: a daemon has declared it again in between."""
    managed(site, "DELETE", f"exchanges/%2F/{bell(site)}", fine=(404,))
    return managed(site, "PUT", f"exchanges/%2F/{bell(site)}", {"type": "direct", "durable": False},
                   fine=(400,)).status_code != 400


def of_another_kind(site, servers):
    """Somebody has declared it in another way."""
    wait_until(lambda: redeclared(site), 10, "the exchange is of another kind")
    again(site)
    yield SILENT_SEC
    managed(site, "DELETE", f"exchanges/%2F/{bell(site)}")
    again(site)


def forbidden(site, servers):
    """The user may do nothing with it."""
    user = site.broker.login[0]
    allowed = r"^(?!.*\.doorbell$).*"
    servers.rabbitmqctl("set_permissions", user, allowed, allowed, allowed)
    again(site)
    yield SILENT_SEC
    servers.rabbitmqctl("set_permissions", user, ".*", ".*", ".*")
    again(site)


def storm(site, servers):
    """Whoever rings is echoed, all the time."""
    def ring(stop):
        connection = site.broker.connect()
        channel = connection.channel()
        ear = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(ear, bell(site))
        heard = None
        while not stop.is_set():
            _, properties, body = channel.basic_get(ear, auto_ack=True)
            heard = (body, properties) if properties else heard
            for _ in range(50 if heard else 0):
                channel.basic_publish(bell(site), "", *heard)
            channel.queue_purge(ear)
            connection.sleep(0.01)
        connection.close()

    with Background(ring):
        yield SILENT_SEC


def again(site):
    """Connections that exist may go on with what they were allowed."""
    for daemon in [*site.of("api"), *site.of("outboxd")]:
        daemon.terminate()
        daemon.start().wait_ready()


def listeners(site):
    response = managed(site, "GET", f"exchanges/%2F/{bell(site)}/bindings/source")
    return [b["destination"] for b in response.json()]


FAULTS = [deleted, of_another_kind, forbidden, storm]


@case("doorbell away", "the doorbell's exchange deleted, of another kind, forbidden; a storm of rings", shared=False)
def doorbell_away(run):
    title = "the doorbell's exchange deleted, declared in another way, forbidden; a storm of rings"
    result = Result("doorbell away", title, unit="faults")
    servers = run.own_servers()
    with Site("bell", servers, told=0) as site:
        site.up()
        judge = Judge(site)
        wait_until(lambda: len(listeners(site)) >= len(site.of("outboxd")), 10, "publishers listen to the doorbell")
        with Load(site, run.new_seed(), rate=80, rejected_share=0) as load:
            for fault in run.rng.sample(FAULTS, len(FAULTS)):
                time.sleep(1)
                one(site, servers, result, fault)
            lifted = time.monotonic()
            wait_until(lambda: len(listeners(site)) >= len(site.of("outboxd")), 45, "publishers listen again")
            load.end()
            judge.judge(result, load, lifted)
    yield result


def one(site, servers, result, fault):
    publishers = site.of("outboxd")
    steps = fault(site, servers)
    sec = next(steps)
    since, began = site.db.value("SELECT NOW(6)"), time.monotonic()
    used = [cpu_sec(d) for d in publishers]
    while sec:  # what mends it starts publishers anew: their time is taken before
        time.sleep(sec)
        core = (sum(cpu_sec(d) for d in publishers) - sum(used)) / (time.monotonic() - began)
        sec = next(steps, None)
    waits = sorted(site.db.rows(
        "SELECT TIMESTAMPDIFF(MICROSECOND,created_at,updated_at)/1e6 FROM message_status"
        " WHERE created_at>%s AND status='done'", since))
    late = site.db.value(
        "SELECT COUNT(*) FROM message_status WHERE created_at BETWEEN %s AND NOW(6) - INTERVAL %s SECOND"
        " AND status NOT IN ('done','failed')", since, PACE_SEC)
    worst = float(waits[int(len(waits) * 0.99)][0]) if waits else 99
    result.repetitions += 1
    result.notes.append(f"{fault.__name__}: 99 of 100 done after {worst:.2f} s, {late} not after {PACE_SEC} s;"
                        f" publishers used {core:.0%} of a core")
    if late > len(waits) / 100 or worst > PACE_SEC or core > STORM_CORE:
        result.violate(result.notes[-1])
