"""The primary and its replica."""

import time

from clusterstack.config import MACHINES
from clusterstack.database import sequence
from suite.watch import until

from .cases import case, under_load
from .site import pause
from .watch import PROMOTED_SEC, accepts_again, delivers_again, longest_gap

AWAY_SEC = 12  # longer than any statement, request or lease waits


def promoted(trial, waits):
    """The replica becomes the primary; seconds until a send is accepted."""
    site = trial.site
    target = site.databases.server(other_than(site.stack.config.primary))
    site.stack.promote(target.machine)
    waits.append(accepts_again(trial.load, trial.result))


def other_than(machine):
    return "db2" if machine == "db1" else "db1"


def rebuilt(trial):
    """The old primary comes back: read-only, and a replica when it has been rebuilt."""
    site = trial.site
    old = site.databases.server(other_than(site.stack.config.primary))
    site.start(old.machine)
    if old.writable():
        trial.result.violate(f"{old.machine} came back writable")
    site.databases.rebuild(old.machine)
    if old.value("@@read_only") != "1" or not old.follows(site.primary):
        trial.result.violate(f"{old.machine} is no replica after it was rebuilt")


@case("primary killed", "the primary's machine killed while it commits, the replica promoted, the old one rebuilt"
      " (durable)", "promotions", short=True)
def primary_killed(trial):
    site, waits = trial.site, []
    with under_load(trial):
        for _ in trial.repetitions():
            pause(trial.rng.uniform(1, 3))
            site.kill(site.stack.config.primary)
            pause(trial.rng.uniform(0, 3))
            promoted(trial, waits)
            delivers_again(site, trial.result, deadline=30)
            rebuilt(trial)
    trial.took("sends were accepted after the promotion within", waits)
    trial.only_answers(200, 409, 503)


@case("planned promotion", "the replica promoted while the primary is well, which is fenced first", "promotions")
def planned(trial):
    site, waits = trial.site, []
    with under_load(trial):
        for _ in trial.repetitions():
            pause(trial.rng.uniform(1, 3))
            promoted(trial, waits)
            delivers_again(site, trial.result, deadline=30)
            rebuilt(trial)
    trial.took("sends were accepted after the promotion within", waits)
    trial.only_answers(200, 409, 503)


@case("primary restarted", "the primary killed and started again: read-only until it is promoted again", "kills")
def primary_restarted(trial):
    site, waits = trial.site, []
    with under_load(trial):
        for _ in trial.repetitions():
            pause(trial.rng.uniform(1, 3))
            machine = site.stack.config.primary
            site.kill(machine)
            site.start(machine)
            if site.databases.server(machine).writable():
                trial.result.violate("it came back writable")
            site.stack.promote(machine)
            waits.append(accepts_again(trial.load, trial.result))
    trial.took("sends were accepted after the promotion within", waits)
    trial.only_answers(200, 409, 503)


@case("replica away, durable", f"the replica cut off for {AWAY_SEC} s (durable): no send is accepted meanwhile, none is"
      " lost", "times", times=2)
def replica_away_durable(trial):
    site, waits, load = trial.site, [], trial.load
    with under_load(trial):
        for _ in trial.repetitions():
            pause(2)
            site.partition(["db1"], ["db2"])
            pause(1)
            began = time.monotonic()
            pause(AWAY_SEC)
            trial.note(f"{load.accepted_since(began)} sends were answered with 200 later than 1 s after the cut")
            on_the_replica(trial)
            healed = time.monotonic()
            site.heal()
            waits.append(accepts_again(load, trial.result, healed, deadline=20))
    trial.took("sends were accepted after the replica's return within", waits)
    trial.only_answers(200, 409, 503)


def on_the_replica(trial):
    """What was answered with 200 until now is there, whatever the primary shows."""
    site, accepted = trial.site, set(trial.load.accepted.values())
    replica = site.databases.server(other_than(site.stack.config.primary))
    received = replica.replication()["Gtid_IO_Pos"]
    until(trial.result, lambda: sequence(replica.value("@@gtid_slave_pos")) >= sequence(received), 30,
          f"the replica has applied {received}", pause=0.2)
    there = set(replica.run(f"SELECT message_identifier FROM {site.stack.config.settings['DB_NAME']}.messages",
                            "--skip-column-names").split())
    if missing := accepted - there:
        trial.result.violate(f"{len(missing)} messages of {len(accepted)} that were answered with 200 are not on the"
                             f" replica ({received}, the primary: {site.primary.value('@@gtid_binlog_pos')}): {missing}")


@case("replica away, primary lost", f"the replica cut off for {AWAY_SEC} s, then the primary's machine killed and the"
      " replica promoted (durable): whatever was answered with 200 is there", "promotions", times=2)
def replica_away_primary_lost(trial):
    site, waits, load = trial.site, [], trial.load
    with under_load(trial):
        for _ in trial.repetitions():
            pause(2)
            site.partition(["db1"], ["db2"])
            pause(AWAY_SEC)
            on_the_replica(trial)
            site.kill(site.stack.config.primary)
            site.heal(but=[site.stack.config.primary])
            promoted(trial, waits)
            delivers_again(site, trial.result, deadline=30)
            rebuilt(trial)
    trial.took("sends were accepted after the promotion within", waits)
    trial.only_answers(200, 409, 503)


@case("replica away, available", f"the replica cut off for {AWAY_SEC} s (available): sends go on with one copy", "times",
      times=2)
def replica_away_available(trial):
    site, load = trial.site, trial.load
    with site.in_mode("available"), under_load(trial):
        for _ in trial.repetitions():
            pause(2)
            began = time.monotonic()
            site.partition(["db1"], ["db2"])
            pause(AWAY_SEC)
            gap = longest_gap(load.times, began, time.monotonic())
            trial.note(f"no send was accepted for {gap:.1f} s at most")
            if gap > 5:
                trial.result.violate(f"no send was accepted for {gap:.1f} s")
            if site.primary.status("Rpl_semi_sync_master_status") != "OFF":
                trial.result.violate("the primary does not say that it waits for nobody")
            site.heal()
            until(trial.result, site.replica_whole, 30, "the primary waits for its replica again", pause=0.2)
    trial.only_answers(200, 409, 503)


@case("replica behind", "the replica receives and does not apply for 8 s, then the primary is killed: the promotion"
      " waits until all is applied", "promotions", times=2)
def replica_behind(trial):
    site, waits = trial.site, []
    with under_load(trial):
        for _ in trial.repetitions():
            pause(1)
            site.replica.run("STOP SLAVE SQL_THREAD")
            pause(8)
            site.kill(site.stack.config.primary)
            promoted(trial, waits)
            rebuilt(trial)
    trial.took("sends were accepted after the promotion within", waits)
    trial.only_answers(200, 409, 503)


@case("two writable", "the replica promoted while the primary lives on the other side of a partition, unfenced: no"
      " daemon writes to either while both can be seen", "promotions", times=1)
def two_writable(trial):
    """What fencing prevents. Durable: the one that is cut off can commit nothing, so nothing has to be undone."""
    site, load = trial.site, trial.load
    with under_load(trial):
        for _ in trial.repetitions():
            pause(1)
            old = site.primary
            target = site.replica
            site.partition([old.machine], [m for m in MACHINES if m != old.machine])
            pause(2)
            site.stack.promote(target.machine, force=True)
            accepts_again(load, trial.result)
            site.heal()
            pause(4)
            both = time.monotonic()
            pause(3)
            if found := load.accepted_since(both):
                trial.result.violate(f"{found} sends were accepted while two servers took writes")
            site.databases.fence(old)
            accepts_again(load, trial.result)
            rebuilt(trial)
    trial.only_answers(200, 409, 503)


@case("loss is detected", "what `available` promises, to the letter: the replica away, the primary goes on alone and is"
      " lost: what is gone is counted when it comes back", "losses", times=1)
def loss_is_detected(trial):
    site, load, waits = trial.site, trial.load, []
    with site.in_mode("available"), under_load(trial, may_lose=True):
        for _ in trial.repetitions():
            pause(2)
            site.partition(["db1"], ["db2"])
            pause(6)
            old = site.databases.server(site.stack.config.primary)
            site.kill(old.machine)
            site.heal(but=[old.machine])
            promoted(trial, waits)
            site.start(old.machine)
            own = site.databases._own(old)
            present = {m for (m,) in site.db.rows("SELECT message_identifier FROM messages")}
            trial.result.messages = len(load.accepted)
            gone = [m for m in load.accepted.values() if m not in present]
            trial.note(f"{len(gone)} accepted messages are not in the database, {old.machine} has {own} transactions of"
                       " its own")
            if not gone or not own:
                trial.result.violate("nothing was lost, so nothing could be detected")
            rebuilt(trial)
    if waits and max(waits) > PROMOTED_SEC:
        trial.result.violate("sends were not accepted again in time")
