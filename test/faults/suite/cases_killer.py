"""Something dies every one to five seconds."""

import time

from .cases import case
from .check import Judge, Result
from .load import Load
from .site import Site


@case("random killer", "any daemon, MariaDB or RabbitMQ killed every 1–5 s", shared=False)
def random_killer(run):
    servers = run.own_servers()
    result = Result("random killer", "any daemon, MariaDB or RabbitMQ killed every 1–5 s", unit="kills")
    with Site("killer", servers) as site:
        site.up()
        judge = Judge(site)
        end = time.monotonic() + run.killer_sec
        kills = {}
        with Load(site, run.new_seed(), rate=80) as load:
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
            lifted = time.monotonic()
            site.up()
            load.end(90)
            result.repetitions = sum(kills.values())
            result.notes.append(f"{run.killer_sec:.0f} s; " + ", ".join(
                f"{k} {n}" for k, n in sorted(kills.items())))
            result.title += f", for {run.killer_sec:.0f} s"
            judge.judge(result, load, lifted, deadline=120, replays=200)
    yield result
