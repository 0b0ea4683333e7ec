"""RabbitMQ's nodes: killed, restarted, cut off, full, and not the leader any more."""

import time

from suite.watch import until

from .cases import case, under_load
from .site import BROKERS, nodes, pause, rabbit
from .watch import delivers_again


def each_node(trial, harm, mend):
    """One node after the other, those that lead first: delivery goes on without it, and it comes back."""
    site, waits = trial.site, []
    with under_load(trial):
        for n in trial.repetitions():
            machine = nodes(site)[n % len(BROKERS)]
            pause(trial.rng.uniform(0.5, 2))
            last = site.newest()
            harm(machine)
            waits.append(delivers_again(site, trial.result, since=last))
            pause(trial.rng.uniform(0.5, 3))
            mend(machine)
            site.whole()
    trial.took("delivery went on after", waits)
    trial.sends_went_on()


@case("broker node killed", "a RabbitMQ node killed under load and started again, each in turn", "kills", short=True)
def killed(trial):
    each_node(trial, lambda m: trial.site.kill(rabbit(m)), lambda m: trial.site.start(rabbit(m)))
    trial.only_answers(200)


@case("broker node restarted", "a RabbitMQ node stopped in order and started again, each in turn", "restarts")
def restarted(trial):
    each_node(trial, lambda m: trial.site.stack.stop([rabbit(m)]), lambda m: trial.site.start(rabbit(m)))
    trial.only_answers(200)


@case("broker minority", "a RabbitMQ node cut off from the other two; all daemons can reach all nodes", "partitions")
def minority(trial):
    site = trial.site

    def harm(machine):
        site.partition([machine], [m for m in BROKERS if m != machine], ports=ERLANG)
    each_node(trial, harm, lambda m: site.heal())
    trial.only_answers(200)


ERLANG = (4369, 25672)  # what nodes say to each other


@case("machine in the minority", "a machine with a node and daemons cut off from the other two; the database, the"
      " operators and HAProxy see all", "partitions")
def machine_in_minority(trial):
    site = trial.site
    each_node(trial, lambda m: site.partition([m], [o for o in BROKERS if o != m]), lambda m: site.heal())
    trial.only_answers(200, 503)


@case("daemons in the minority", "the daemons that are left are on the side of the single node: deliveries wait, sends"
      " do not", "partitions", times=1)
def daemons_in_minority(trial):
    site, waits = trial.site, []
    with under_load(trial):
        for n in trial.repetitions():
            machine = BROKERS[n % len(BROKERS)]
            others = [m for m in BROKERS if m != machine]
            gone = [f"{kind}-{m[1]}" for m in others for kind in ("outboxd", "consumerd")]
            site.kill(*gone)
            site.partition([machine], others)
            pause(25)  # until the node has noticed, and then some
            last = site.newest()
            site.heal()
            waits.append(delivers_again(site, trial.result, deadline=45, since=last))
            site.whole()
    trial.took("delivery went on after the partition healed within", waits)
    trial.sends_went_on()


@case("no majority", "all three nodes cut off from each other: deliveries wait, sends do not", "partitions", times=1)
def no_majority(trial):
    site, waits = trial.site, []
    with under_load(trial):
        for _ in trial.repetitions():
            for n, machine in enumerate(BROKERS):
                site.partition([machine], BROKERS[n + 1:], ports=ERLANG)
            pause(20)
            last = site.newest()
            site.heal()
            waits.append(delivers_again(site, trial.result, deadline=45, since=last))
            site.whole()
    trial.took("delivery went on after the partition healed within", waits)
    trial.sends_went_on()
    trial.only_answers(200)


@case("disk full on a node", "a node's disk is full: it blocks every publisher of the cluster, until it is emptied, or"
      " the node is stopped", "times", times=2)
def disk_full(trial):
    site, waits = trial.site, []
    with under_load(trial):
        for n in trial.repetitions():
            machine = BROKERS[n % len(BROKERS)]
            site.stack.rabbitmqctl(machine, "set_disk_free_limit", "100000GB")
            pause(8)
            waiting = site.db.value("SELECT COUNT(*) FROM outbox_events")
            if waiting < 2 * 60:
                trial.result.violate(f"only {waiting} wait in the outbox: nobody was blocked")
            last = site.newest()
            if n % 2:
                site.kill(rabbit(machine))
            else:
                site.stack.rabbitmqctl(machine, "set_disk_free_limit", "50MB")
            waits.append(delivers_again(site, trial.result, since=last))
            site.whole()
    trial.took("delivery went on after the relief within", waits)
    trial.sends_went_on()
    trial.only_answers(200)


@case("leader moved", "both queues' leaders moved to the next node", "moves", times=6, short=True)
def leader_moved(trial):
    site, waits = trial.site, []
    with under_load(trial):
        for n in trial.repetitions():
            pause(trial.rng.uniform(1, 2))
            last = site.newest()
            for queue in (site.broker.express, site.broker.normal):
                move_leader(trial, queue)
            waits.append(delivers_again(site, trial.result, since=last))
    trial.took("delivery went on after", waits)
    trial.sends_went_on()
    trial.only_answers(200)


def move_leader(trial, queue):
    site = trial.site
    old = site.leader(queue)
    new = BROKERS[(BROKERS.index(old) + 1) % len(BROKERS)]
    name = f"'%2F_{queue}'"
    site.stack.rabbitmqctl(old, "eval", f"ra:transfer_leadership({{{name}, rabbit@{old}}}, {{{name}, rabbit@{new}}}).")
    until(trial.result, lambda: site.leader(queue) == new, 20, f"{queue} is led by {new}", pause=0.2)


def killer(site, rng, every, stop, kills):
    """One node killed so many seconds after the one before is back: never two at once."""
    n = 0
    while not stop.wait(every):
        machine = BROKERS[n % len(BROKERS)]
        n += 1
        site.kill(rabbit(machine))
        kills.append(time.monotonic())
        stop.wait(rng.uniform(1, 3))
        site.start(rabbit(machine))
