"""The page about webhooks says the schedule that the source has."""
import re

PAGE = "docs/webhooks.md"
SOURCE = "libcommon/domain/webhook.h"
START = "<!-- schedule: written by test/papers/run --write -->\n"
END = "<!-- end of schedule -->\n"


def words(seconds):
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds % unit == 0:
            return f"{seconds // unit} {name}"
    return f"{seconds} s"


def with_schedule(root):
    waits = re.search(r'#define WEBHOOK_SCHEDULE "([0-9,]+)"', (root / SOURCE).read_text())[1].split(",")
    *most, last = [words(int(w)) for w in waits]
    before, rest = (root / PAGE).read_text().split(START)
    return f"{before}{START}after {', '.join(most)} and {last}\n{END}{rest.split(END)[1]}"


def write(root):
    (root / PAGE).write_text(with_schedule(root))


def check(root):
    if (root / PAGE).read_text() != with_schedule(root):
        yield f"{PAGE}: its schedule is not the source's; run test/papers/run --write"
