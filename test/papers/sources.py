"""Log events and metrics: what the sources have, and whether the pages list it."""
import re
import sys

SOURCES = ["api", "outboxd", "consumerd", "operator-sim", "libcommon"]

EVENTS_PAGE = "docs/log-events.md"
EVENTS_START, EVENTS_END = "<!-- log events: checked by test/papers/run -->\n", "<!-- end of log events -->\n"
LOG_CALL = re.compile(r"\b(log_(?:debug|info|warn|error)|LOG_EVENT)\(")
LITERAL = re.compile(r'"((?:[^"\\\n]|\\.)*)"')
DOTTED = re.compile(r'"([a-z_]+\.[a-z_]+)"')
EVENT = re.compile(r"[a-z_]+(\.[a-z_]+)?")

METRICS_PAGE = "docs/metrics.md"
METRICS_START, METRICS_END = "<!-- metrics: checked by test/papers/run -->\n", "<!-- end of metrics -->\n"
REGISTER = re.compile(r"\bmetrics_(counter|gauge|latency|sizes)\((?!const char)")
TYPES = {"counter": "counter", "gauge": "gauge", "latency": "histogram", "sizes": "histogram"}
# What every process tells without registering it: the name and the type are text.
RENDERED = re.compile(r'\bput_(?:own|head)\(\s*out,\s*format,\s*"(\w+)",\s*"(\w+)"')
METRIC_ROW = re.compile(r"(?m)^\| `([^`]+)` \| (\w+) \| (\S.*?) \| (\S.*?) \| (\S.*) \|$")


def files(root, pattern="*.c"):
    return sorted(p for folder in SOURCES for p in (root / folder).rglob(pattern) if "node_modules" not in p.parts)


def show(found):
    for name, where in sorted(found.items()):
        print(f"{name:40} {' '.join(sorted(where))}")


def arguments(text, at):
    """Those of the call whose parenthesis ends at `at`, the text of each."""
    depth, found, start = 1, [], at
    while depth:
        if text[at] == '"':
            at = LITERAL.match(text, at).end()
            continue
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if depth == 0 or (depth == 1 and text[at] == ","):
            found.append(text[start:at])
            start = at + 1
        at += 1
    return found


def listed(page, start, end, row):
    return row.findall(page.read_text().split(start)[1].split(end)[0])


def compare(page, what, names, wanted):
    """Sentences about a list of names that is not the wanted set in the order of the alphabet."""
    if missing := set(wanted) - set(names):
        yield f"{page}: {what} that are not listed: {sorted(missing)}"
    if dead := set(names) - set(wanted):
        yield f"{page}: {what} that no source has: {sorted(dead)}"
    if not missing and not dead and names != sorted(wanted):
        yield f"{page}: {what} are not in order, or are listed twice"


def events(root):
    """{event: {file}}, {event: {level}}. Where the name is in a variable, it is one of the dotted words
    of that file, of a level that is not known.
    """
    where, levels = {}, {}
    for path in files(root):
        text = path.read_text()
        for call in LOG_CALL.finditer(text):
            first, *others = arguments(text, call.end())
            name = others[0] if call[1] == "LOG_EVENT" else first
            names = LITERAL.findall(name)
            for event in names:
                levels.setdefault(event, set()).update(
                    level.lower() for level in re.findall(r"LOG_(\w+)", first) or [call[1].removeprefix("log_")])
            names = names or DOTTED.findall(text)
            if not names:
                sys.exit(f"{path}: which event is {name.strip()}?")
            for event in names:
                if not EVENT.fullmatch(event):
                    sys.exit(f"{path}: {event!r} is no name of an event")
                where.setdefault(event, set()).add(str(path.relative_to(root)))
    return where, levels


def check_events(root):
    rows = listed(root / EVENTS_PAGE, EVENTS_START, EVENTS_END,
                  re.compile(r"(?m)^\| `([^`]+)` \| (\w+(?:, \w+)*) \| (\S.*) \|$"))
    logged, levels = events(root)
    yield from compare(EVENTS_PAGE, "log events", [name for name, _, _ in rows], logged)
    if wrong := [n for n, level, _ in rows if n in levels and set(level.split(", ")) != levels[n]]:
        yield f"{EVENTS_PAGE}: log events of another level: {wrong}"


def metrics(root):
    """{family: (type, {file})}"""
    found = {}
    for path in files(root):
        text = path.read_text()
        some = [(TYPES[call[1]], arguments(text, call.end())[0].strip()) for call in REGISTER.finditer(text)]
        some += [(kind, f'"{name}"') for name, kind in RENDERED.findall(text)]
        for kind, name in some:
            literal = LITERAL.fullmatch(name)
            if not literal:
                sys.exit(f"{path}: the name of a metric must be a literal, not {name}")
            found.setdefault(literal[1], (kind, set()))[1].add(str(path.relative_to(root)))
    return found


def of(where):
    """The programs whose metric it is, by the folders that register it; None: libcommon's, so any."""
    folders = {path.split("/")[0] for path in where}
    if "libcommon" in folders:
        return None
    return ", ".join(sorted(f if f == "operator-sim" else f"msg-{f}" for f in folders))


def check_metrics(root):
    rows = listed(root / METRICS_PAGE, METRICS_START, METRICS_END, METRIC_ROW)
    found = metrics(root)
    yield from compare(METRICS_PAGE, "metrics", [row[0] for row in rows], found)
    for name, kind, _, owner, _ in rows:
        if name in found and found[name][0] != kind:
            yield f"{METRICS_PAGE}: {name} is a {found[name][0]}"
        if name in found and of(found[name][1]) not in (None, owner):
            yield f"{METRICS_PAGE}: {name} is a metric of {of(found[name][1])}"
