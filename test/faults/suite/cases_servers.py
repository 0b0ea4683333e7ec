"""MariaDB and RabbitMQ themselves."""

import time

from .cases import case
from .check import Judge, Result
from .load import Load
from .site import PATIENT, Site
from .watch import cpu_sec, resumed, until

RESUMED_SEC = 10    # from a server's return to work that goes on
API_SUCCESS = 0.999  # of the answers while the broker is away
UNBLOCKED_SEC = 5   # from the end of an alarm to what is published
SPIN = 0.2          # of a core: more than that, by a daemon that is blocked, is a loop


def restarted(servers, name):
    def fault(run):
        servers.restart(name)

    def killed(run):
        servers.kill(name)
        servers.start(name)
    return fault, killed


def server_case(case_name, title, name, how, times):
    @case(case_name, title, shared=False)
    def server(run):
        result = Result(case_name, title, unit="times")
        servers = run.own_servers()
        orderly, killed = restarted(servers, name)
        with Site("server", servers, replicas=2, **PATIENT) as site:
            site.up()
            judge = Judge(site)
            slowest = 0
            with Load(site, run.new_seed(), rate=80) as load:
                for _ in range(run.times(times)):
                    time.sleep(run.rng.uniform(1, 3))
                    (orderly if how == "restart" else killed)(run)
                    lifted = time.monotonic()
                    slowest = max(slowest, resumed(site, load, result, RESUMED_SEC, name + "'s return"))
                    result.repetitions += 1
                load.end()
                judge.judge(result, load, lifted, deadline=90, ghosts=name == "mariadb" and how == "kill")
            told(result, load, slowest, name)
        yield result


def told(result, load, slowest, name):
    """What senders saw of it: nothing of a broker, of a database nothing but 503."""
    answers = ", ".join(f"{n} answers of {status}" for status, n in sorted(load.answers.items()))
    result.notes.append(f"at work again {slowest:.1f} s after the server at the latest; {answers}")
    if load.cut:
        result.violate(f"{load.cut} requests were cut")
    if set(load.answers) - {200, 503}:
        result.violate(f"answers {dict(load.answers)}")
    if name == "rabbitmq" and load.answers[200] < API_SUCCESS * sum(load.answers.values()):
        result.violate(f"the broker's absence was shown to senders: {dict(load.answers)}")


server_case("broker restart", "RabbitMQ restarted", "rabbitmq", "restart", 5)
server_case("broker kill", "RabbitMQ killed", "rabbitmq", "kill", 8)
server_case("database restart", "MariaDB restarted", "mariadb", "restart", 12)
server_case("database kill", "MariaDB killed", "mariadb", "kill", 20)


@case("broker away", "RabbitMQ away", shared=False)
def broker_away(run):
    """Sends are accepted all the while, and the backlog then goes faster than more of it comes."""
    away = run.times(60, 10)
    result = Result("broker away", f"RabbitMQ away for {away} s", unit="times")
    servers = run.own_servers()
    rate = 80
    with Site("server", servers, replicas=2, **PATIENT) as site:
        site.up()
        judge = Judge(site)
        with Load(site, run.new_seed(), rate=rate) as load:
            time.sleep(2)
            servers.kill("rabbitmq")
            time.sleep(away)
            servers.start("rabbitmq")
            lifted = time.monotonic()
            result.repetitions = 1
            backlog = outbox(site)
            took = until(result, lambda: outbox(site) < rate, 60, "the backlog is published")
            drained = backlog / took + rate
            result.notes.append(f"{backlog} waited; published at {drained:.0f} a second, reconnecting"
                                f" included, while {rate} came")
            if backlog < rate * away / 2 or drained < 1.5 * rate:
                result.violate(f"a backlog of {backlog} was published at {drained:.0f} a second")
            slowest = resumed(site, load, result, RESUMED_SEC, "RabbitMQ's return")
            load.end()
            judge.judge(result, load, lifted, deadline=90)
        told(result, load, slowest, "rabbitmq")
    yield result


def outbox(site):
    return site.db.value("SELECT COUNT(*) FROM outbox_events")


ALARMS = {"memory": (("set_vm_memory_high_watermark", "0"), ("set_vm_memory_high_watermark", "0.4")),
          "disk": (("set_disk_free_limit", "100000GB"), ("set_disk_free_limit", "50MB"))}


@case("broker alarm", "RabbitMQ's memory and disk alarms", shared=False)
def alarm(run):
    blocked_sec = run.times(8, 5)
    result = Result("broker alarm", "RabbitMQ's memory and disk alarms in turn (connection.blocked) for"
                    f" {5 + blocked_sec} s", unit="times")
    servers = run.own_servers()
    with Site("alarm", servers, **PATIENT) as site:
        site.up()
        judge = Judge(site)
        slowest = 0
        with Load(site, run.new_seed(), rate=80) as load:
            for n in range(run.times(6, 2)):
                on, off = ALARMS[("memory", "disk")[n % 2]]
                time.sleep(2)
                servers.rabbitmqctl(*on)
                time.sleep(5)
                idle(site, blocked_sec, result)
                waiting = outbox(site)
                if waiting < 80:
                    result.violate(f"only {waiting} wait in the outbox: nobody was blocked")
                servers.rabbitmqctl(*off)
                lifted = time.monotonic()
                slowest = max(slowest, until(result, lambda: outbox(site) < waiting / 2, UNBLOCKED_SEC,
                                             "publishing goes on after the alarm"))
                result.repetitions += 1
            load.end()
            judge.judge(result, load, lifted)
        told(result, load, slowest, "rabbitmq")
        if load.repeats:
            result.violate(f"{load.repeats} sends were turned away")
    yield result


def idle(site, seconds, result):
    """Nobody dies and nobody spins."""
    before = {d.name: cpu_sec(d) for d in site.daemons.values()}
    time.sleep(seconds)
    for daemon in site.daemons.values():
        if not daemon.alive:
            result.violate(f"{daemon.name} ended with {daemon.process.returncode}")
            continue
        used = (cpu_sec(daemon) - before[daemon.name]) / seconds
        if used > SPIN:
            result.violate(f"{daemon.name} used {used:.0%} of a core while publishing was blocked")
