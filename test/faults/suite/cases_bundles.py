"""Several messages in one AMQP message: what is wrong with one of them, and with what they travel in."""

import json
import re
import time
import uuid
from collections import Counter
from urllib.parse import quote

import requests
from harness.wait import wait_until

from .bundles import Seen, alone, between, bundle, cut, unknown_message
from .cases import case
from .cases_links import killed, revived
from .check import Judge, Result
from .load import Load
from .site import Background, Site
from .watch import total, until

BURST = 40      # what is sent together is published together
COPIES_KEPT = 200


class Poisoner:
    """Members as they came, in bundles with poison at random places."""

    def __init__(self, site, rng):
        self.site, self.rng = site, rng
        self.kinds = Counter()
        self.copies = {"express": [], "normal": []}

    def poison(self, lane):
        """(what it is, a member)"""
        rng = self.rng
        good = unknown_message(rng, lane)
        other = self.copies["normal" if lane == "express" else "express"]
        kinds = [("unreadable", b"nonsense"), ("unreadable", b"7"), ("unreadable", b"null"), ("unreadable", b"[]"),
                 ("unreadable", b'"a text, with ]} in it"'),
                 ("unreadable", json.dumps({**good, "recipients": "0912"}).encode()),
                 ("unreadable", json.dumps({**good, "message_identifier": 7}).encode()),
                 ("unreadable", json.dumps({**good, "text": None}).encode()),
                 ("without rows", good)]
        kinds += [("of the other lane", member) for member in other[-5:]]
        return rng.choice(kinds)

    def change(self, queue, members):
        lane = members[0]["type"]
        self.copies[lane] = (self.copies[lane] + members)[-COPIES_KEPT:]
        for part in cut(list(members), self.rng, 20):
            for _ in range(self.rng.randint(0, 3)):
                what, member = self.poison(lane)
                part.insert(self.rng.randint(0, len(part)), member)
                self.kinds[what] += 1
            yield bundle(part)

    def whole(self):
        """Bundles that nobody can read: of copies alone, so that nothing is lost with them."""
        copies = self.copies["normal"][:5]
        body, properties = bundle(copies)
        properties.message_id = None
        yield body[:-2], properties
        yield b"", properties
        yield b"{}", properties
        yield b'{"messages":[]}', properties
        yield b"\x00" * 1000, properties
        _, newer = bundle(copies)
        newer.message_id, newer.headers = None, {"bundle": 99}
        yield body, newer


@case("bundle poison", "poison inside bundles: unreadable, of the other lane, of messages that nobody has")
def bundle_poison(run):
    title = "poison inside bundles: unreadable members, of the other lane, without rows; bundles nobody can read"
    result = Result("bundle poison", title, unit="poisonous members")
    with Site("bundles", run.servers, replicas=1) as site:
        site.up()
        judge, poisoner = Judge(site), Poisoner(site, run.rng)
        with Load(site, run.new_seed(), rate=150, burst=BURST) as load:
            with Background(between(site, poisoner.change)):
                time.sleep(run.times(8, 3))
                wait_until(lambda: len(poisoner.kinds) >= 3 and min(poisoner.kinds.values()) >= 3, 30,
                           "poison of each kind")
            whole = list(poisoner.whole())
            publish(site, site.broker.normal, whole)
            lifted = time.monotonic()
            load.end()
            result.repetitions = poisoner.kinds.total() + len(whole)
            judge.judge(result, load, lifted, dead=result.repetitions)
        result.notes.append(", ".join(f"{n} {what}" for what, n in sorted(poisoner.kinds.items()))
                            + f", {len(whole)} whole bundles")
        if result.repeats:
            result.violate(f"operators saw {result.repeats} repeats")
        put_right(site, judge, result, load)
    yield result


def put_right(site, judge, result, load):
    """What a person does about the letters: those of messages that exist go back, the others go away."""
    letters = listed(site, result)
    known = {name for name, states in letters if "no recipients known" not in states}
    if known:
        act(site, result, "replay", *sorted(known))
    act(site, result, "drop", "--all")
    judge.judge(result, load, time.monotonic(), replays=0)
    if not known:
        result.violate("no letter was of a message that exists: " + str(letters[:3]))


def listed(site, result):
    """[(name, what became of its recipients)] of the dead letters."""
    code, said = site.verb("consumerd", "dead", "list")
    if code:
        result.violate(f"dead list ended with {code}: {said[-300:]}")
    rows = [line.split("\t") for line in said.splitlines() if "\t" in line]
    return [(row[0].strip(), row[-1]) for row in rows]


def act(site, result, *words):
    code, said = site.verb("consumerd", "dead", *words)
    if code:
        result.violate(f"dead {' '.join(words)} ended with {code}: {said[-300:]}")


def publish(site, queue, messages):
    connection = site.broker.connect()
    channel = connection.channel()
    channel.confirm_delivery()
    for body, properties in messages:
        channel.basic_publish("", queue, body, properties, mandatory=True)
    connection.close()


DEADLY = "0913"  # how recipients begin that no consumer survives
KILLERS = 4
TAKEOVERS = 5  # as shipped


@case("bundle killer", "a member of a bundle that kills whoever sends it")
def bundle_killer(run):
    title = "members of bundles that kill their consumer; their letters doubled, then replayed and dropped"
    result = Result("bundle killer", title, unit="deaths")
    links = [f"consumerd-{n}:operatorA" for n in (1, 2)]
    with Site("killer", run.servers, replicas={"api": 1, "outboxd": 1, "consumerd": 2}, links=links,
              DELIVERY_TAKEOVERS_MAX=TAKEOVERS, DELIVERY_RETRY_WINDOW_SEC=120) as site:
        site.up()
        judge, deaths = Judge(site), [0]
        for link in links:
            site.proxies[link].on_sight(DEADLY.encode(), killed(site[link.split(":")[0]], deaths), passes=False)
        api = site.apis[0]
        customer = api.funded(1000)
        with Background(revived(site.of("consumerd"))), Load(site, run.new_seed(), rate=100, burst=BURST) as load:
            time.sleep(1)
            sent = [api.sent(customer, [f"{DEADLY}{n:07d}"], type="express" if n % 2 else "normal")
                    ["message_identifier"] for n in range(KILLERS)]
            wait_until(lambda: given_up(site) >= set(sent), 90, "each has killed often enough", pause=0.2)
            for link in links:
                site.proxies[link].heal()
            lifted = time.monotonic()
            load.end()
        site.up()
        wait_until(lambda: given_up(site) <= {name for name, _ in listed(site, result)}, 60,
                   "each is a dead letter", pause=1)
        result.repetitions = deaths[0]
        if deaths[0] > 2 * KILLERS * (TAKEOVERS + 1):
            result.violate(f"{deaths[0]} deaths of {KILLERS} messages")
        decide(site, result, sent)
        judge.judge(result, load, lifted, replays=20)
        states = Counter(tuple(sorted(api.statuses(customer, m).values())) for m in sent)
        if states != {("failed",): KILLERS / 2, ("done",): KILLERS / 2}:
            result.violate(f"half were replayed and half dropped, and they are {dict(states)}")
        if result.repeats:
            result.violate(f"operators saw {result.repeats} repeats")
    yield result


def given_up(site):
    """Messages that too many consumers have died over."""
    return {m for (m,) in site.db.rows("SELECT message_identifier FROM message_status WHERE takeovers>=%s AND"
                                       " status='sending'", TAKEOVERS)}


def decide(site, result, sent):
    """Half of the letters are replayed and half dropped; each letter is there twice, as after a crash
    between its publication and the bundle's acknowledgement. Who died with the deadly ones too often
    is a letter as well, and goes on its way."""
    letters = []
    while letter := site.broker.get(site.broker.dead):
        letters.append(letter[::-1])
    found = {properties.message_id for _, properties in letters}
    if set(sent) - found:
        result.violate(f"no dead letters of {set(sent) - found}")
    publish(site, site.broker.dead, letters * 2)
    for n, message in enumerate(sorted(found, key=lambda m: m not in sent)):
        act(site, result, "drop" if n < KILLERS / 2 else "replay", message)
    result.notes.append(f"{len(letters)} letters of {len(sent)} deadly messages and"
                        f" {len(found - set(sent))} that died with them")
    if len(found) > 2 * len(sent):
        result.violate(result.notes[-1])


class Shuffler:
    """Every member once as it should be and once more, late, among others, in sizes nobody would choose."""

    def __init__(self, rng):
        self.rng = rng
        self.old = {}
        self.copies = 0

    def change(self, queue, members):
        old = self.old.setdefault(queue, [])
        again = [old.pop(self.rng.randrange(len(old))) for _ in range(len(old) // 2)]
        twice = self.rng.sample(members, len(members) // 4)
        old += members
        self.copies += len(again) + len(twice)
        mixed = members + again + twice
        self.rng.shuffle(mixed)
        for part in cut(mixed, self.rng, self.rng.choice((3, 60))):
            yield alone(part[0]) if len(part) == 1 and self.rng.random() < 0.5 else bundle(part)


@case("bundles shuffled", "bundles taken apart: copies, other orders, members in other bundles", short=True)
def bundles_shuffled(run):
    title = "members of bundles copied, in other orders and in other bundles"
    result = Result("bundles shuffled", title, unit="copies")
    with Site("shuffle", run.servers, replicas={"api": 1, "outboxd": 2, "consumerd": 2}) as site:
        site.up()
        judge, shuffler, seen = Judge(site), Shuffler(run.rng), Seen()
        with Background(between(site, shuffler.change, seen)), \
                Load(site, run.new_seed(), rate=150, rejected_share=0, burst=BURST) as load:
            time.sleep(run.times(12, 4))
            load.end()
            for queue, members in shuffler.old.items():
                publish(site, queue, [bundle(part) for part in cut(members[-1000:], run.rng, 400)])
                shuffler.copies += len(members[-1000:])
        lifted = time.monotonic()
        result.repetitions = shuffler.copies
        result.notes.append(f"taken: {seen.words()}")
        if seen.bundles < 3 or shuffler.copies < seen.members:
            result.violate(f"{shuffler.copies} copies prove nothing")
        judge.judge(result, load, lifted, replays=20)
        calls = sum(o.counts()["requests"] for o in site.operators)
        if result.repeats or calls != len(load.accepted):
            result.violate(f"operators were called {calls} times for {len(load.accepted)} messages")
    yield result


# -- what the broker refuses ------------------------------------------------------------------------


def managed(site, method, path, body=None, fine=()):
    """The broker's management. fine: answers that are no failure, beside success."""
    response = requests.request(method, f"{site.broker.management}/{path}", json=body, auth=site.broker.login,
                                timeout=10)
    assert response.status_code in (200, 201, 204, *fine), response.text
    return response


def too_large(site, servers):
    """What is larger than a few messages closes the channel that it is published on, where the channel
    was opened since."""
    for size in (SMALL_BYTES, LARGE_BYTES):
        servers.rabbitmqctl("eval", f"application:set_env(rabbit, max_message_size, {size}).")
        for daemon in site.of("outboxd"):
            daemon.terminate()
            daemon.start().wait_ready()
        if size == SMALL_BYTES:
            yield


def nacked(site, servers):
    """The queue takes no more than a few, and says so to who publishes."""
    name = f"full-{site.broker.normal}"
    managed(site, "PUT", f"policies/%2F/{name}",
            {"pattern": f"^({re.escape(site.broker.normal)}|{re.escape(site.broker.express)})$",
             "apply-to": "queues", "definition": {"max-length": 0, "overflow": "reject-publish"}})
    yield
    managed(site, "DELETE", f"policies/%2F/{name}")


def deleted(site, servers):
    """What was in the queues is lost with them, and comes back by the repair."""
    for queue in (site.broker.normal, site.broker.express):
        managed(site, "DELETE", f"queues/%2F/{quote(queue, safe='')}")
    yield


SMALL_BYTES, LARGE_BYTES = 3000, 134217728
REFUSALS = {"too large": too_large, "rejected": nacked, "queue deleted": deleted}
REFUSED_SEC = 3


@case("bundles refused", "bundles that the broker refuses: too large, rejected, no queue", shared=False)
def bundles_refused(run):
    title = "bundles that the broker refuses: larger than it takes, rejected by a policy, their queue deleted"
    result = Result("bundles refused", title, unit="refusals")
    servers = run.own_servers()
    with Site("refused", servers, replicas=1, REPAIR_AFTER_SEC=3, REPAIR_INTERVAL_MS=500) as site:
        site.up()
        judge = Judge(site)
        with Load(site, run.new_seed(), rate=150, burst=BURST) as load:
            for name in run.rng.sample(list(REFUSALS), len(REFUSALS)):
                time.sleep(1)
                refuse(site, servers, result, load, name)
            lifted = time.monotonic()
            load.end()
            judge.judge(result, load, lifted, deadline=90)
        burnt = total(site.of("outboxd"), "msg_outbox_attempts_failed_total")
        if burnt:
            result.violate(f"{burnt:.0f} attempts were burnt")
        if load.repeats:
            result.violate(f"{load.repeats} sends were turned away")
    yield result


def refuse(site, servers, result, load, name):
    fault = REFUSALS[name](site, servers)
    next(fault)
    began = time.monotonic()
    time.sleep(REFUSED_SEC)
    if name == "too large":  # each goes alone: nothing waits for the end of it
        until(result, lambda: not due(site, REFUSED_SEC), 10, "messages go although bundles may not")
    next(fault, None)
    until(result, lambda: not due(site, time.monotonic() - began), 30, f"all goes on after: {name}")
    result.repetitions += 1


def due(site, sec):
    """Rows of the outbox that have waited for longer."""
    return site.db.value("SELECT COUNT(*) FROM outbox_events WHERE created_at < NOW(6) - INTERVAL %s SECOND", sec)
