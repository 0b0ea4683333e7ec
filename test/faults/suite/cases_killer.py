"""Something dies every one to five seconds."""

import time

from .cases import case
from .check import Judge, Result
from .load import Load
from .site import PATIENT, Site
from .watch import finished

CALM_SEC = 10
KEPT = 0.6          # of the throughput without kills
RECOVERED_SEC = 10  # from the last kill to an empty backlog


@case("random killer", "any daemon, MariaDB or RabbitMQ killed every 1–5 s", shared=False)
def random_killer(run):
    servers = run.own_servers()
    result = Result("random killer", "any daemon, MariaDB or RabbitMQ killed every 1–5 s", unit="kills")
    with Site("killer", servers, **PATIENT) as site:
        site.up()
        judge = Judge(site)
        kills = {}
        with Load(site, run.new_seed(), rate=80) as load:
            time.sleep(CALM_SEC)
            baseline = finished(site) / CALM_SEC
            began, before = time.monotonic(), finished(site)
            end = began + run.killer_sec
            names = [*site.daemons, "mariadb", "rabbitmq"]
            while time.monotonic() < end:
                time.sleep(run.rng.uniform(1, 5))
                name = run.rng.choice(names)
                kind = name.rpartition("-")[0] or name
                kills[kind] = kills.get(kind, 0) + 1
                if name in site.daemons:
                    site[name].kill()
                    site[name].start()
                else:
                    servers.kill(name)
                    servers.start(name)
            rate = (finished(site) - before) / (time.monotonic() - began)
            lifted = time.monotonic()
            site.up()
            load.end(90)
            result.repetitions = sum(kills.values())
            result.notes.append(f"{run.killer_sec:.0f} s; " + ", ".join(
                f"{k} {n}" for k, n in sorted(kills.items())))
            result.title += f", for {run.killer_sec:.0f} s"
            judge.judge(result, load, lifted, deadline=120, replays=200, ghosts=True)
        result.notes.append(f"{rate:.0f} messages became final a second, {baseline:.0f} before the kills")
        if rate < KEPT * baseline:
            result.violate(result.notes[-1])
        if result.recovery_sec > RECOVERED_SEC:
            result.violate(f"all is final {result.recovery_sec:.1f} s after the last kill")
    yield result
