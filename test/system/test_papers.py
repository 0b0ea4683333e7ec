"""README and the pages keep in step with the programs and the sources."""

import re
import shutil
import subprocess
import sys

import pytest
from harness.metrics import Metrics
from harness.wait import wait_until
from harness.stack import BUILD, REPOSITORY

EVENT = next(line for line in (REPOSITORY / "docs" / "log-events.md").read_text().splitlines(keepends=True)
             if line.startswith("| `delivery.failed` | info |"))
METRIC = "| `msg_queue_depth` | gauge |"
NOT_COPIED = {".git", ".local", "node_modules", "__pycache__", ".pytest_cache"}


def left_out(folder, names):
    return [n for n in names if n in NOT_COPIED or n.startswith("build")]


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(REPOSITORY, tmp_path / "copy", ignore=left_out)
    return tmp_path / "copy"


def check(copy):
    done = subprocess.run([copy / "test/papers/run", "--check"], env={"BUILD_DIR": str(BUILD)},
                          capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def says(copy, said):
    code, text = check(copy)
    assert code == 1 and said in text, text


def test_what_is_here_is_in_step(copy):
    assert check(copy) == (0, "")


@pytest.mark.parametrize("statement", [
    'log_info("delivery.sung", L_MSG("la, la"));',
    'LOG_EVENT(loud ? LOG_WARN : LOG_INFO, "delivery.sung", L_MSG("la"));',
    'log_warn(loud ? "delivery.sung" : "delivery.failed", L_MSG(")"));',
    'const char *event = "delivery.sung"; log_warn(event, L_MSG("la"));',
])
@pytest.mark.parametrize("folder", ["consumerd", "libcommon/choir"])
def test_an_event_that_is_not_listed(copy, folder, statement):
    (copy / folder).mkdir(exist_ok=True)
    (copy / folder / "song.c").write_text(f"void sing(int loud)\n{{\n    {statement}\n}}\n")
    says(copy, "log events that are not listed: ['delivery.sung']")


@pytest.mark.parametrize("old, new, said", [
    (EVENT, EVENT + EVENT.replace(".failed", ".failed_twice"), "no source has: ['delivery.failed_twice']"),
    (EVENT, "", "not listed: ['delivery.failed']"),
    (EVENT, EVENT + EVENT, "listed twice"),
    (EVENT, EVENT.replace("info", "warn"), "another level: ['delivery.failed']"),
])
def test_a_list_of_events_that_is_wrong(copy, old, new, said):
    edit(copy / "docs/log-events.md", old, new)
    says(copy, said)


def test_a_metric_that_is_not_listed(copy):
    (copy / "consumerd/song.c").write_text('struct metric *songs;\nvoid sing(void)\n{\n    songs = metrics_counter(\n'
                                           '        "msg_songs_total", "Songs (all, \\"la\\").", "");\n}\n')
    says(copy, "metrics that are not listed: ['msg_songs_total']")


@pytest.mark.parametrize("old, new, said", [
    (METRIC, METRIC.replace("_depth", "_width"), "no source has: ['msg_queue_width']"),
    (METRIC, METRIC.replace("gauge", "counter"), "msg_queue_depth is a gauge"),
    (METRIC + " – | msg-api |", METRIC + " – | msg-outboxd |", "msg_queue_depth is a metric of msg-api"),
])
def test_a_list_of_metrics_that_is_wrong(copy, old, new, said):
    edit(copy / "docs/metrics.md", old, new)
    says(copy, said)


@pytest.mark.parametrize("path, old, new, said", [
    ("docs/settings.md", "| `DB_PORT` | `3306` |", "| `DB_PORT` | `3307` |", "docs/settings.md: out of date"),
    ("docs/faults.md", " 0 | 0 |", " 0 | 1 |", "docs/faults.md: not what the suite has recorded"),
    ("docs/benchmark.md", "end to end, steady for 60 s", "end to end", "docs/benchmark.md: not what the benchmark"),
    ("README.md", "* end to end, steady for 60 s", "* end to end", "README.md: not what the benchmark"),
    ("README.md", "## Licence\n", "## Licence\n" + "\n" * 250, "README.md: "),
    ("README.md", "(docs/tracing.md)", "(docs/settings.md)", "README.md: does not link docs/tracing.md"),
    ("docs/capacity.md", "(benchmark.md)", "(benchmarks.md)", "docs/capacity.md: benchmarks.md leads nowhere"),
    ("docs/architecture.md", "| **lane** |", "| **lane, message** |", "a word stands in the glossary twice"),
    ("docs/operating.md", "RUNBOOK.md#repairgivenup", "RUNBOOK.md#repaired", "RUNBOOK.md#repaired: there is no such"),
])
def test_pages_that_are_wrong(copy, path, old, new, said):
    edit(copy / path, old, new)
    says(copy, said)


def listed_metrics():
    """{family: (type, {label: values, empty when they are not fixed}, of)}"""
    sys.path.insert(0, str(REPOSITORY / "test/papers"))
    import sources
    rows = sources.listed(REPOSITORY / sources.METRICS_PAGE, sources.METRICS_START, sources.METRICS_END,
                          sources.METRIC_ROW)
    return {name: (kind, {label: set(values.split()) for label, values in
                          re.findall(r"`(\w+)`(?: \(([^)]*)\))?", labels)}, of)
            for name, kind, labels, of, _ in rows}


def has(of, program):
    return of == "all" or program in of or (of == "daemons" and program != "operator-sim")


def exported(metrics, family):
    labels = {}
    for name, given, _ in metrics.samples:
        if name == (family + "_sum" if metrics.types[family] == "histogram" else family):
            for label, value in given.items():
                labels.setdefault(label, set()).add(value)
    return labels


# Of what this stack does not do: it asks for no keys, speaks no TLS, and has one database server alone.
SWITCHED_ON = {"msg_auth_failures_total", "msg_tls_certificate_expiry_seconds", "msg_recipients_unreported_total",
               "db_server_state", "msg_copy_reads_total"}


def test_metrics_are_exported_as_listed(world):
    stack = world(BACKPRESSURE_QUEUE_DEPTH="1000", REPAIR_INTERVAL_MS="1000")
    # Absent until it has been counted.
    wait_until(lambda: Metrics.of(stack.url("consumerd-1")).series("msg_published_open"), 30, "a count")
    listed = listed_metrics()
    of_receipts = {name for name in listed if name.startswith("msg_receipt")}
    absent = of_receipts | SWITCHED_ON - ({"msg_auth_failures_total"} if stack.asks_keys else set())
    for program, url in (("msg-api", stack.url("api-1")), ("msg-outboxd", stack.url("outboxd-1")),
                         ("msg-consumerd", stack.url("consumerd-1")), ("operator-sim", stack.operator_a.url)):
        metrics = Metrics.of(url)
        assert set(metrics.types) == {n for n, (_, _, of) in listed.items() if has(of, program)} - absent, program
        for name, kind in metrics.types.items():
            kind_listed, labels, _ = listed[name]
            found = exported(metrics, name)
            if name in ("msg_operator_balance", "msg_operator_balance_low") and not found:
                continue  # no operator has told one
            assert kind == kind_listed and set(found) == set(labels), (program, name)
            for label, values in labels.items():
                assert not values or found[label] <= values, (program, name, label)


@pytest.mark.parametrize("name, text, said", [
    ("outboxd/worker_pool.c", "", 'outboxd/worker_pool.c: the file\'s name has the word "worker"'),
    ("api/lane.h", "", 'api/lane.h: the file\'s name has the word "lane"'),
    ("api/pool.h", "int claim_take_all(const char *name,\n                   int n);\n",
     'api/pool.h: claim_take_all() has the word "claim"'),
    ("libcommon/base/pool.h", "struct pool *\ntake_over(void);\n",
     'libcommon/base/pool.h: take_over() has the word "take_over"'),
])
def test_a_word_of_the_glossary_for_something_else(copy, name, text, said):
    (copy / name).write_text(text)
    says(copy, said)


@pytest.mark.parametrize("name, text", [
    ("consumerd/claim_more.c", ""),
    ("outboxd/claim_more.h", "int claim_take_more(int n);\n"),
    ("api/pool.h", "/* int claim_take(void); */\nint pool_claim(int n);\n"),
])
def test_a_word_of_the_glossary_where_it_belongs(copy, name, text):
    (copy / name).write_text(text)
    assert check(copy) == (0, "")
