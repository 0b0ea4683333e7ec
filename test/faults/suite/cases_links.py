"""The network between two parts, through a proxy that misbehaves."""

import time

import pymysql

from .cases import case
from .check import Judge, Result
from .load import Load
from .site import Background, Site
from .watch import until

SETTLE_SEC = 1.0
# A broker that is dead is found by two heartbeats (of 5 s) in vain: then all connections to it have
# been given up. One of a database or an operator when a statement or call takes too long: then it
# is closed. (Idle ones are looked at when they are needed.)
FOUND_SEC = {"broker": 12, "db": 11, "operatorA": 5}
DEAD_SEC = 12  # the link stays so for as long at least


def reset(proxy, run):
    for _ in range(run.times(10)):
        proxy.reset()
        time.sleep(run.rng.uniform(0.05, 0.4))


def cut_inside(proxy, run):
    for _ in range(run.times(10)):
        proxy.drop_after(run.rng.randint(1, 5000), run.rng.choice(["up", "down"]))
        time.sleep(run.rng.uniform(0.1, 0.5))
        proxy.heal()


def delay(proxy, run):
    proxy.delay(0.2, jitter=0.1)
    time.sleep(2)


def stall(direction, seconds):
    def fault(proxy, run):
        proxy.stall(direction)
        time.sleep(seconds)
    fault.__name__ = f"stall_{direction}"
    return fault


def refuse(proxy, run):
    proxy.refuse()
    time.sleep(2)


def half_open(proxy, run):
    """Returns how long it took until one connection was given up or another tried, and until all old
    ones were given up; None for what did not happen."""
    old, connections, began = proxy.held(), proxy.connections, time.monotonic()
    noticed = given_up = None
    proxy.stall("both")
    while (now := time.monotonic() - began) < (DEAD_SEC if given_up else max(FOUND_SEC.values())):
        if noticed is None and (proxy.connections > connections or old - proxy.held()):
            noticed = now
        if given_up is None and not old & proxy.held():
            given_up = now
        time.sleep(0.05)
    return noticed, given_up


FAULTS = [reset, cut_inside, delay, stall("up", 3), stall("down", 3), refuse, half_open]

def judge_found(result, target, noticed, given_up):
    found = given_up if target == "broker" else noticed
    result.notes.append(f"a dead link was noticed after {noticed or 0:.1f} s, the last connection on it given up"
                        f" after {given_up or 0:.1f} s")
    if found is None or found > FOUND_SEC[target]:
        result.violate(f"a dead peer was found after {found} s, {FOUND_SEC[target]} s is the most")


LINKS = {
    "api-1:db": "msg-api and the database", "outboxd-1:db": "msg-outboxd and the database",
    "consumerd-1:db": "msg-consumerd and the database",
    "outboxd-1:broker": "msg-outboxd and the broker",
    "consumerd-1:broker": "msg-consumerd and the broker",
    "consumerd-1:operatorA": "msg-consumerd and operator A",
}


def link_case(link, words):
    # An operator that cannot be asked may have accepted: then both may have it, and it is told apart.
    unknown = ":operator" in link
    title = (f"the link between {words}: reset, cut inside a packet, slow, one direction dead, refused,"
             " half open")

    @case(f"link {link}", title)
    def broken_link(run):
        result = Result(f"link {link}", title, unit="faults")
        with Site("link", run.servers, replicas=1, links=[link], DELIVERY_RETRY_WINDOW_SEC=120) as site:
            site.up()
            judge = Judge(site)
            proxy = site.proxies[link]
            # In an order of the seed: what follows what matters.
            faults = run.rng.sample(FAULTS, len(FAULTS))
            with Load(site, run.new_seed(), rate=100) as load:
                for fault in faults:
                    time.sleep(SETTLE_SEC)
                    found = fault(proxy, run)
                    proxy.heal()
                    if fault is half_open:
                        judge_found(result, link.split(":")[1], *found)
                    lifted = time.monotonic()
                    result.repetitions += 1
                load.end()
                result.notes.append(f"{proxy.cut} connections cut of {proxy.connections}; "
                                    + " ".join(f.__name__ for f in faults))
                judge.judge(result, load, lifted, deadline=90, unknown=unknown)
        yield result


for _link, _words in LINKS.items():
    link_case(_link, _words)


# COM_STMT_EXECUTE, which says what it is right after the end of its header: what msg-api commits a few sends
# with is prepared, and the text is seen once a connection.
EXECUTE = b"\x00\x00\x17"
COMMITS = {"api": EXECUTE, "outboxd": b"COMMIT", "consumerd": b"COMMIT"}


def lost_commits(kind):
    title = f"answers to COMMIT lost, of msg-{kind}"

    @case(f"lost COMMIT {kind}", title, short=kind == "api")
    def lost(run):
        result = Result(f"lost COMMIT {kind}", title, unit="commits")
        with Site("commit", run.servers, replicas=1, links=[f"{kind}-1:db"]) as site:
            site.up()
            judge = Judge(site)
            proxy = site.proxies[f"{kind}-1:db"]
            with Load(site, run.new_seed(), rate=100) as load:
                proxy.lose_answer_to(COMMITS[kind], every=3)
                end = time.monotonic() + run.times(20, 3)
                while time.monotonic() < end:
                    time.sleep(0.1)
                result.repetitions = proxy.cut
                proxy.heal()
                lifted = time.monotonic()
                load.end()
                judge.judge(result, load, lifted, deadline=60, replays=None)
        yield result


for _kind in COMMITS:
    lost_commits(_kind)


@case("killed at COMMIT", "msg-api killed once its COMMIT has left", short=True)
def killed_at_commit(run):
    """The database goes on with what it was sent, or gives up in the middle: nobody is there to be told."""
    result = Result("killed at COMMIT", "msg-api killed once its COMMIT has left", unit="kills")
    links = [f"api-{n}:db" for n in (1, 2)]
    with Site("commit", run.servers, replicas={"api": 2, "outboxd": 1, "consumerd": 1}, links=links) as site:
        site.up()
        judge, kills = Judge(site), [0]
        with Background(revived(site.of("api"))), Load(site, run.new_seed(), rate=150, burst=20) as load:
            for link in links:
                daemon = site[link.split(":")[0]]
                site.proxies[link].on_sight(COMMITS["api"], killed(daemon, kills), every=run.rng.randint(2, 6))
            until(result, lambda: kills[0] >= run.times(30, 4), 60, "killed often enough")
            for link in links:
                site.proxies[link].heal()
            lifted = time.monotonic()
            load.end()
            result.repetitions = kills[0]
            judge.judge(result, load, lifted, replays=None)
    yield result


def killed(daemon, kills):
    def kill():
        if daemon.alive:
            kills[0] += 1
            daemon.process.kill()
    return kill


def revived(daemons):
    """For Background: whoever has died is started again."""
    def run(stop):
        while not stop.wait(0.02):
            for daemon in daemons:
                if not daemon.alive:
                    daemon.start()
        for daemon in daemons:
            if not daemon.alive:
                daemon.start()
            daemon.wait_ready()
    return run


HEAVY_ROWS = 300  # written by the one who is not to be the victim
MYSQL_DEADLOCK = 1213


@case("deadlocks", "the database's deadlocks forced on msg-api's transactions")
def deadlocks(run):
    """Somebody locks customers' balances against the order, and has written too much to be the victim."""
    title = "deadlocks forced on msg-api's transactions: balances locked against the order by one who wrote more"
    result = Result("deadlocks", title, unit="deadlocks")
    with Site("deadlocks", run.servers, replicas=1) as site:
        site.up()
        judge = Judge(site)
        site.db.execute("CREATE TABLE heavy (id INT AUTO_INCREMENT PRIMARY KEY, x INT) ENGINE=InnoDB")
        lost, began = [0], deadlocks_found(site)

        with Load(site, run.new_seed(), rate=300, connections=16, customers=12) as load:
            def against(stop):
                while not stop.wait(0.02):
                    lost[0] += lock_against(site, load.customers, run.rng)

            with Background(against):
                end = time.monotonic() + run.times(12, 4)
                while time.monotonic() < end:
                    time.sleep(0.1)
            lifted = time.monotonic()
            load.end()
            result.repetitions = deadlocks_found(site) - began - lost[0]
            if result.repetitions < run.times(10, 2):
                result.violate(f"only {result.repetitions} deadlocks that msg-api lost")
            judge.judge(result, load, lifted)
    yield result


def deadlocks_found(site):
    return int(site.db.rows("SHOW GLOBAL STATUS LIKE 'Innodb_deadlocks'")[0][1])


def lock_against(site, customers, rng):
    """1: it was the victim itself."""
    with site.db.connect(autocommit=False) as connection, connection.cursor() as cursor:
        try:
            cursor.execute("INSERT INTO heavy(x) VALUES " + ",".join(["(1)"] * HEAVY_ROWS))
            for customer in sorted(rng.sample(customers, len(customers) // 2), reverse=True):
                cursor.execute("SELECT 1 FROM user_balances FORCE INDEX(user_id) WHERE user_id=%s FOR UPDATE",
                               customer)
            connection.rollback()
        except pymysql.err.OperationalError as e:
            if e.args[0] != MYSQL_DEADLOCK:
                raise
            return 1
    return 0


# What each daemon sends whose answer decides what happens to a message, and the most bytes that are left of
# that one: the answer to few sends is short.
ANSWERS = {"api": (EXECUTE, 10), "outboxd": (b"SKIP LOCKED", 900), "consumerd": (b"FOR UPDATE", 900)}


def cut_answers(kind, needle, most):
    title = f"the database's answers to msg-{kind} cut after any number of bytes"

    @case(f"cut answers {kind}", title, short=kind == "consumerd")
    def cut(run):
        result = Result(f"cut answers {kind}", title, unit="cuts")
        with Site("answers", run.servers, replicas=1, links=[f"{kind}-1:db"]) as site:
            site.up()
            judge = Judge(site)
            proxy = site.proxies[f"{kind}-1:db"]
            with Load(site, run.new_seed(), rate=100) as load:
                wanted = run.times(200, 40)
                proxy.cut_answer_to(needle, lambda: run.rng.randint(0, most))
                end = time.monotonic() + 30
                while proxy.cut < wanted and time.monotonic() < end:
                    time.sleep(0.05)
                result.repetitions = proxy.cut
                proxy.heal()
                proxy.reset()
                lifted = time.monotonic()
                load.end()
                judge.judge(result, load, lifted)
        yield result


for _kind, (_needle, _most) in ANSWERS.items():
    cut_answers(_kind, _needle, _most)
