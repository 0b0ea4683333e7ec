"""How long sends and deliveries stood still, as clients and the database tell."""

import time

from suite.watch import until

SENDS_GAP_SEC = 3      # longest without an accepted send while the database is well
DELIVERY_SEC = 15      # from a broker node's loss to a delivery of what was accepted after it
PROMOTED_SEC = 15      # from a promotion to an accepted send


def delivers_again(site, result, deadline=DELIVERY_SEC, since=None):
    """Seconds until something that was accepted from now on is final."""
    last = site.newest() if since is None else since
    return until(result, lambda: site.settled(last), deadline, "what is accepted now is delivered", pause=0.05)


def accepts_again(load, result, moment=None, deadline=PROMOTED_SEC):
    """Seconds until a send is accepted."""
    moment = time.monotonic() if moment is None else moment
    return until(result, lambda: load.accepted_since(moment), deadline, "sends are accepted again", pause=0.02)


def longest_gap(times, begin, end):
    """Between two accepted sends; also before the first and after the last."""
    marks = [begin, *sorted(t for t in times if begin < t < end), end]
    return max(b - a for a, b in zip(marks, marks[1:]))


def deliveries(site, load):
    """The longest time in which nothing became final while sends were accepted, and from a send's acceptance to its
    end, in the database's time."""
    rows = site.db.rows(
        "SELECT created_at,updated_at FROM message_status WHERE user_id BETWEEN %s AND %s"
        " AND status IN ('done','failed') ORDER BY updated_at", load.customers[0], load.customers[-1])
    last = max((accepted for accepted, _ in rows), default=None)
    moments = [final for _, final in rows if final <= last]
    gap = max(((b - a).total_seconds() for a, b in zip(moments, moments[1:])), default=0.0)
    return gap, max(((final - accepted).total_seconds() for accepted, final in rows), default=0.0)
