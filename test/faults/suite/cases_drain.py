"""Orderly ends, crowds, and a log that nobody reads."""

import contextlib
import os
import resource
import socket
import time

from harness.wait import wait_until

from .cases import case
from .check import Judge, Result
from .load import Load
from .site import Site
from .watch import cpu_sec, finished, total, until

DRAIN_SEC = 20


def restart(daemon, result):
    code, seconds = daemon.terminate(DRAIN_SEC + 5)
    if code != 0 or seconds > DRAIN_SEC:
        result.violate(f"{daemon.name} ended with {code} after {seconds:.1f} s")
    result.recovery_sec = max(result.recovery_sec, seconds)
    daemon.start().wait_ready()


@case("rolling restart", "SIGTERM and rolling restart of every daemon: no request fails", short=True)
def rolling_restart(run):
    result = Result("rolling restart", "SIGTERM and rolling restart of every daemon: no request fails",
                    unit="restarts")
    with Site("rolling", run.servers) as site:
        site.up()
        judge = Judge(site)
        with Load(site, run.new_seed(), rate=100, strict=True) as load:
            for _ in range(run.times(5)):
                for daemon in site.daemons.values():
                    time.sleep(run.rng.uniform(0.1, 0.5))
                    restart(daemon, result)
                    result.repetitions += 1
            lifted = time.monotonic()
            load.end()
            slowest_end = result.recovery_sec
            judge.judge(result, load, lifted)
            result.notes.append(f"slowest end of a daemon {slowest_end:.2f} s, {load.repeats} refused"
                                f" connections went to the other replica")
            if load.failures:
                result.violate(f"{len(load.failures)} of {load.made} requests failed",
                               *map(str, load.failures[:3]))
    yield result


CROWD = 8


@case("scale", "from one of each daemon to eight and back: no request fails")
def scale(run):
    result = Result("scale", f"from one of each daemon to {CROWD} and back: no request fails",
                    unit="starts and stops")
    with Site("scale", run.servers, replicas=1) as site:
        site.up()
        judge = Judge(site)
        kinds = list(site.counts)
        with Load(site, run.new_seed(), rate=80, strict=True) as load:
            for _ in range(run.times(3)):
                for n in range(2, CROWD + 1):
                    for daemon in [site.add(f"{kind}-{n}").start() for kind in kinds]:
                        daemon.wait_ready()
                    load.addresses.append(site[f"api-{n}"].url.removeprefix("http://"))
                time.sleep(1)
                for n in range(CROWD, 1, -1):
                    for kind in kinds:
                        retire(site, f"{kind}-{n}", result)
                    load.addresses.pop()
                result.repetitions += 2 * (CROWD - 1) * len(kinds)
            lifted = time.monotonic()
            load.end()
            result.notes.append(f"slowest end of a daemon {result.recovery_sec:.2f} s")
            judge.judge(result, load, lifted)
            if load.failures:
                result.violate(f"{len(load.failures)} of {load.made} requests failed",
                               *map(str, load.failures[:3]))
            if result.repeats:
                result.violate(f"operators saw {result.repeats} repeats")
    yield result


def retire(site, name, result):
    code, seconds = site.daemons.pop(name).terminate(DRAIN_SEC + 5)
    if code != 0 or seconds > DRAIN_SEC:
        result.violate(f"{name} ended with {code} after {seconds:.1f} s")
    result.recovery_sec = max(result.recovery_sec, seconds)


@case("drain with work", "SIGTERM of msg-consumerd and msg-outboxd with slow operators")
def drain_with_work(run):
    """What was in flight is finished: nothing reaches an operator twice."""
    result = Result("drain with work", "SIGTERM of msg-consumerd with sends of 0.2–1 s in flight",
                    unit="stops")
    with Site("drain", run.servers, replicas={"api": 1, "outboxd": 1, "consumerd": 2}) as site:
        site.up()
        judge = Judge(site)
        site.operators_do(latency_ms=200, latency_max_ms=1000)
        with Load(site, run.new_seed(), rate=100) as load:
            for _ in range(run.times(6)):
                for name in ("consumerd-1", "outboxd-1", "consumerd-2"):
                    time.sleep(0.7)
                    restart(site[name], result)
                    result.repetitions += 1
            lifted = time.monotonic()
            load.end()
            judge.judge(result, load, lifted)
            if result.repeats:
                result.violate(f"operators saw {result.repeats} repeats")
    yield result


def raise_file_limit(wanted):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, wanted), hard), hard))


@case("storm", "idle and slow connections, and no file descriptors left, at msg-api")
def storm(run):
    result = Result("storm", "idle and slow connections at msg-api, then no file descriptors left",
                    unit="connections")
    raise_file_limit(8192)
    with Site("storm", run.servers, replicas=1, HTTP_READ_TIMEOUT_MS=3000) as site:
        site.up()
        judge = Judge(site)
        port = int(site["api-1"].url.rsplit(":", 1)[1])
        crowd = []
        with Load(site, run.new_seed(), rate=60) as load:
            for n in range(run.times(2000, 100)):
                s = socket.create_connection(("127.0.0.1", port), 5)
                if n % 2:
                    s.sendall(b"POST /messages/send HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
                crowd.append(s)
            result.repetitions = len(crowd)
            time.sleep(5)
            slow = sum(1 for s in crowd[1::2] if closed(s))
            result.notes.append(f"{slow} of {len(crowd) // 2} slow senders cut; slowest answer to"
                                f" others {load.slowest:.2f} s")
            if slow < len(crowd) // 2:
                result.violate("slow senders are not cut in time")
            for s in crowd:
                s.close()
            emfile(site["api-1"], port)
            lifted = time.monotonic()
            load.end()
            judge.judge(result, load, lifted)
            if load.repeats:
                result.notes.append(f"{load.repeats} requests repeated")
    yield result


def closed(s):
    s.setblocking(False)
    try:
        while True:
            if not s.recv(4096):
                return True
    except BlockingIOError:
        return False
    except OSError:
        return True


def emfile(daemon, port):
    """So few descriptors that accept() fails; afterwards it serves as before."""
    pid = daemon.process.pid
    used = len(os.listdir(f"/proc/{pid}/fd"))
    old = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 5, old[1]))
    crowd = []
    try:
        for _ in range(100):
            with contextlib.suppress(OSError):
                crowd.append(socket.create_connection(("127.0.0.1", port), 1))
        before = cpu_sec(daemon)
        time.sleep(3)
        busy = (cpu_sec(daemon) - before) / 3
        assert busy < 0.8, f"{daemon.name} used {busy:.0%} of a core without descriptors"
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, old)
        for s in crowd:
            s.close()
    wait_until(daemon.ready, 10, f"{daemon.name} is ready again")


LOGGED_RATE = 150


def dropped_lines(site):
    return total(site.daemons.values(), "msg_log_dropped_total")


@case("log stalled", "nobody reads the daemons' logs")
def log_stalled(run):
    """stdout is a pipe that is full: work goes on at full speed, lines are dropped and counted."""
    result = Result("log stalled", "nobody reads the daemons' logs (stdout is a full pipe)", unit="daemons")
    pipes = []
    with Site("log", run.servers, replicas=1, LOG_LEVEL="debug") as site:
        for daemon in site.daemons.values():
            reader, writer = os.pipe()
            pipes += [reader, writer]
            daemon.start(stdout=writer)
            result.repetitions += 1
        site.up()
        judge = Judge(site)
        # Every one fails, which is a line of msg-consumerd's.
        with Load(site, run.new_seed(), rate=LOGGED_RATE, rejected_share=1) as load:
            until(result, lambda: dropped_lines(site), 90, "pipe and buffer are full", pause=0.5)
            began, done, dropped = time.monotonic(), finished(site), dropped_lines(site)
            time.sleep(run.times(15, 3))
            seconds = time.monotonic() - began
            accepted, done = load.accepted_since(began) / seconds, (finished(site) - done) / seconds
            dropped = dropped_lines(site) - dropped
            lifted = time.monotonic()
            load.end()
            judge.judge(result, load, lifted)
        result.notes.append(f"{accepted:.1f} sends a second accepted and {done:.1f} final, of"
                            f" {LOGGED_RATE}; {dropped:.0f} lines dropped")
        if min(accepted, done) < 0.97 * LOGGED_RATE or not dropped:
            result.violate(result.notes[-1])
        for daemon in site.daemons.values():
            code, seconds = daemon.terminate(DRAIN_SEC + 5)
            if code != 0 or seconds > DRAIN_SEC:
                result.violate(f"{daemon.name} ended with {code} after {seconds:.1f} s")
    for end in pipes:
        os.close(end)
    yield result
