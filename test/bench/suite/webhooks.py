"""Customers' endpoints at volume: one customer who sends and one endpoint that is well, from the change of a recipient
to its answer. Lag is by the rows' times, the database's clock.
"""

import statistics
from dataclasses import dataclass

from harness.receiver import Hooks, wait_known
from harness.wait import wait_until

from .platform import LIFTED, Receiver
from .rows import row

RATE = 2000
OFFERED = 2200
SECONDS = 20
RECIPIENTS = 100
CUSTOMER = 9001


@dataclass
class Told:
    """Of the events of a load; rate: a second, from the first change to the last answer."""

    rate: float
    lags_ms: list
    us: dict  # an event, by process
    once: bool
    rss_mib: dict

    def __str__(self):
        cuts = statistics.quantiles(self.lags_ms, n=100)
        return (f"{self.rate:,.0f}/s, told after p50 {cuts[49]:.0f} ms, p99 {cuts[98]:.0f} ms; of msg-consumerd, which delivers"
                f" as well, {self.us['msg-consumerd']:.0f} µs, of mariadbd {self.us['mariadbd']:.0f}")


def tell(bench, name, batch):
    with Receiver() as receiver, bench.platform(name, WEBHOOK_ALLOW_PRIVATE="127.0.0.1", **LIFTED) as p:
        p.up().seed(1, CUSTOMER)
        hook = Hooks(p.stack.api(), CUSTOMER).create(receiver.url + "/told", events=["message.done"], batch=batch)
        wait_known(p.stack)
        meter = p.meter()
        load = p.load(OFFERED / RECIPIENTS, SECONDS, users=1, user_start=CUSTOMER, recipients=RECIPIENTS)
        events = load.recipients
        wait_until(lambda: p.db.value("SELECT COUNT(*) FROM webhook_events WHERE delivered_at IS NOT NULL") == events, 120,
                   f"{events} events are told", pause=0.5)
        spent = meter.stop()
        lags = [float(ms) for ms, in p.db.rows(
            "SELECT TIMESTAMPDIFF(MICROSECOND,created_at,delivered_at)/1000 FROM webhook_events")]
        seconds = float(p.db.value(
            "SELECT TIMESTAMPDIFF(MICROSECOND,MIN(created_at),MAX(delivered_at))/1000000 FROM webhook_events"))
        calls = p.db.value("SELECT calls FROM webhooks WHERE id=%s", hook["id"])
        clean, rss_mib = load["passed"] and not p.audit(), p.peaks_mib()
    once = clean and f"requests={calls} " in receiver.said and (batch > 1 or calls == events)
    return Told(events / seconds, lags, {n: 1e6 * s / events for n, s in spent.items()}, once, rss_mib)


@row("webhooks", f"{OFFERED:,} recipients/s of a customer with an endpoint, for {SECONDS} s: an event a request; and up to"
     " a hundred", f"≥ {RATE:,} events/s, every event told once")
def webhooks(bench, result):
    single, lists = tell(bench, "webhooks", 1), tell(bench, "webhooks-lists", 100)
    result.measured = f"{single}; in lists {lists}"
    for each in (single, lists):
        result.rss_mib = {n: max(mib, result.rss_mib.get(n, 0)) for n, mib in each.rss_mib.items()}
        result.require(each.once, "an event was told twice, or another thing is not as it should be")
        result.require(each.rate >= RATE, "below target")
