"""Prometheus' configuration, rules and alerts, and Grafana's dashboards: on a stack under load every
expression has data. What needs Prometheus is skipped where it is not installed.
"""

import json
import re
import sys

import pytest
import requests
import yaml
from harness import prometheus
from harness.client import Load, recipient
from harness.prometheus import CONFIG, RATE_INTERVAL, Prometheus, promtool
from harness.stack import REPOSITORY
from harness.wait import wait_until

sys.path.insert(0, str(REPOSITORY / "compose"))
from localstack.config import Config  # noqa: E402

GRAFANA = REPOSITORY / "grafana"
BOARDS = {path.name: json.loads(path.read_text()) for path in (GRAFANA / "dashboards").glob("*.json")}
TITLES = {"Messaging Platform - Application Overview", "Messaging Platform - RabbitMQ Overview",
          "Messaging Platform - Money and Delivery"}
JOBS = ["messaging-platform-api", "messaging-platform-outboxd", "messaging-platform-consumerd",
        "rabbitmq", "rabbitmq-queues"]
RULES = {name: yaml.safe_load((CONFIG / "rules" / f"{name}.yml").read_text())
         for name in ("recording", "alerts")}
ALERTS = [rule for group in RULES["alerts"]["groups"] for rule in group["rules"]]
REFUSED = recipient(999_999_999)

# Expressions without data on a healthy stack, and why.
NO_DATA = {
    'absent(up{job="messaging-platform-api"})': "it has data when the job has no target",
    'absent(up{job="messaging-platform-outboxd"})': "as above",
    'absent(up{job="messaging-platform-consumerd"})': "as above",
    'absent(up{job="rabbitmq"})': "as above",
    'time() - min by (job) (msg_api_keys_confirmed_timestamp_seconds{job="messaging-platform-api"}) > 30':
        "nobody asks for keys there",
    "min by (job, instance) (msg_tls_certificate_expiry_seconds) < 14 * 86400": "nobody speaks TLS there",
}


def has_no_data(expression):
    """No operator gives receipts there, or says what is left of our money: test_receipts.py and test_operator_files.py
    look for these metrics."""
    return expression in NO_DATA or re.search(r"msg_(receipts?_|recipients_unreported_|operator_balance)", expression)


with_prometheus = pytest.mark.skipif(not prometheus.available(),
                                     reason="no Prometheus (make observe-test)")


def panels(board):
    return [p for p in board["panels"] if p["type"] != "row"]


def expressions(board):
    return [(p["title"], t["expr"]) for p in panels(board) for t in p["targets"]]


def filled(expression, board):
    """With its variables replaced as Grafana does when All is chosen."""
    for variable in board["templating"]["list"]:
        if "allValue" in variable:
            expression = expression.replace(f"${variable['name']}", variable["allValue"])
    expression = expression.replace("$__rate_interval", RATE_INTERVAL)
    assert "$" not in expression, expression
    return expression


def without_threshold(expression):
    """Comparisons give 0 or 1 instead of something or nothing."""
    return re.sub(r"\s(==|!=|>=|<=|>|<)\s", r" \1 bool ", expression)


# -- files ----------------------------------------------------------------------------------------

def scrape_jobs(name):
    config = yaml.safe_load((CONFIG / name).read_text())
    return {job["job_name"]: job for job in config["scrape_configs"]}, config


def test_both_configurations_have_the_same_jobs():
    found, config = scrape_jobs("prometheus.yml")
    local, local_config = scrape_jobs("prometheus-local.yml")
    assert list(found) == list(local) == JOBS
    for job in JOBS:
        discovery = found[job].pop("dns_sd_configs")
        targets = local[job].pop("static_configs")
        assert discovery and targets
        assert found[job] == local[job]
    del config["scrape_configs"], local_config["scrape_configs"]
    assert config == local_config


def test_local_targets_are_those_of_make_run(tmp_path):
    stack = Config(tmp_path, {})
    ports = dict(zip(JOBS, [8080, stack.port("outboxd-1"), stack.port("consumerd-1"),
                            stack.port("rabbitmq-prometheus"), stack.port("rabbitmq-prometheus")]))
    local, _ = scrape_jobs("prometheus-local.yml")
    assert {job: local[job]["static_configs"][0]["targets"] for job in JOBS} \
        == {job: [f"127.0.0.1:{port}"] for job, port in ports.items()}
    assert "setdefault(\"API_PORT\", \"8080\")" in (REPOSITORY / "compose" / "run").read_text()


def test_every_alert_says_what_to_do():
    sections = {heading.lower() for heading in
                re.findall(r"(?m)^## (\w+)$", (CONFIG / "RUNBOOK.md").read_text())}
    links = set()
    for alert in ALERTS:
        assert alert["labels"]["severity"] in ("page", "ticket"), alert
        assert alert["annotations"]["summary"]
        file, _, section = alert["annotations"]["runbook_url"].partition("#")
        assert REPOSITORY / file == CONFIG / "RUNBOOK.md"
        assert section in sections, alert["alert"]
        links.add(section)
    assert sections == links


def test_every_alert_has_a_case_that_fires_and_one_that_does_not():
    cases = {alert["alert"]: set() for alert in ALERTS}
    for path in (CONFIG / "rules").glob("*_test.yml"):
        for test in yaml.safe_load(path.read_text())["tests"]:
            for case in test.get("alert_rule_test", ()):
                cases[case["alertname"]].add(bool(case["exp_alerts"]))
    assert {name for name, seen in cases.items() if seen != {True, False}} == set()


def test_provisioning():
    folder = GRAFANA / "provisioning"
    provider, = yaml.safe_load(
        (folder / "dashboards" / "messaging-platform.yml").read_text())["providers"]
    assert provider["folder"] == "Distributed Messaging Platform"
    assert provider["allowUiUpdates"] is False
    source, traces = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert [d["datasourceUid"] for d in source["jsonData"]["exemplarTraceIdDestinations"]] == [traces["uid"]]
    scrape = scrape_jobs("prometheus.yml")[1]["global"]["scrape_interval"]
    assert (source["type"], source["editable"], source["jsonData"]["timeInterval"]) \
        == ("prometheus", False, scrape)


def test_the_dashboards_are_these():
    assert {board["title"] for board in BOARDS.values()} == TITLES
    assert len({board["uid"] for board in BOARDS.values()}) == len(BOARDS)


@pytest.mark.parametrize("name", BOARDS)
def test_dashboard_rules(name):
    board = BOARDS[name]
    assert (board["schemaVersion"], board["id"], board["editable"]) == (39, None, False)
    variables = {v["name"]: v for v in board["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "instance"]
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    for variable in (variables["job"], variables["instance"]):
        assert variable["refresh"] == 2, "on a change of the time range"
        assert variable["datasource"]["uid"] == "${datasource}"
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    assert len({panel["title"] for panel in panels(board)}) == len(panels(board))


@pytest.mark.parametrize("name,panel", [(name, p["title"]) for name, b in BOARDS.items()
                                        for p in panels(b)])
def test_panel_rules(name, panel):
    panel, = [p for p in panels(BOARDS[name]) if p["title"] == panel]
    defaults = panel["fieldConfig"]["defaults"]
    assert panel["title"] and panel["description"].endswith(".") and defaults["unit"]
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert panel["targets"]
    if panel["type"] == "stat":
        assert defaults["thresholds"]["steps"]
        assert len(panel["targets"]) == 1
    else:
        assert panel["type"] == "timeseries"
        assert all(target["legendFormat"] for target in panel["targets"])
    for target in panel["targets"]:
        assert target["datasource"] == panel["datasource"]
        for selector in re.findall(r"[\w:]+\{[^}]*\}", target["expr"]):
            assert 'job=~"$job"' in selector
            # what is recorded is a sum over instances
            assert 'instance=~"$instance"' in selector or selector.startswith("job:")
        assert not re.search(r"\[(?!\$__rate_interval\])", target["expr"].replace("[.]", ""))


# -- with promtool --------------------------------------------------------------------------------

@with_prometheus
@pytest.mark.parametrize("name", ["prometheus.yml", "prometheus-local.yml"])
def test_configuration_is_valid(name):
    code, text = promtool("check", "config", CONFIG / name)
    assert code == 0, text


@with_prometheus
def test_rules_are_valid():
    files = [CONFIG / "rules" / f"{name}.yml" for name in RULES]
    code, text = promtool("check", "rules", "--lint-fatal", *files)
    assert code == 0, text


@with_prometheus
def test_alerts_fire_and_stay_quiet():
    code, text = promtool("test", "rules", *sorted((CONFIG / "rules").glob("*_test.yml")))
    assert code == 0, text


# -- on a stack -----------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def stack(module_world):
    return module_world(replicas=2)


@with_prometheus
@pytest.mark.parametrize("name", ["api-1", "outboxd-1", "consumerd-1"])
def test_names_of_metrics(stack, name):
    metrics = requests.get(stack.url(name) + "/metrics", timeout=10).text
    assert promtool("check", "metrics", text=metrics) == (0, "")


@pytest.fixture(scope="module")
def watched(stack):
    """Prometheus, after it has seen a while of sends to both lanes, refunds and reads."""
    stack.operator_a.faults(reject_prefix=REFUSED)
    stack.operator_b.faults(reject_prefix=REFUSED)
    customers = stack.db.seed_customers(50, 1000)
    api = stack.api()
    with Prometheus(stack) as watcher:
        watcher.wait_scraped()
        with Load(stack.apis(), customers, 300, connections=4, express_share=0.5) as load:
            load.finish()
        sent = [(c, api.sent(c, [REFUSED, recipient(1)], type="express")) for c in customers[:5]]
        for customer, answer in sent:
            api.wait_final(customer, answer["message_identifier"])
        api.balance(customers[0])
        watcher.wait_scraped(10)
        yield watcher


@with_prometheus
@pytest.mark.parametrize("name", BOARDS)
def test_every_panel_has_data(watched, name):
    board = BOARDS[name]
    empty = [(title, e) for title, e in expressions(board)
             if not has_no_data(e) and not watched.query(filled(e, board))]
    assert empty == []


@with_prometheus
@pytest.mark.parametrize("name", BOARDS)
def test_variables_have_values(watched, name):
    board = BOARDS[name]
    for variable in board["templating"]["list"][1:]:
        selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"]).groups()
        found = {s["metric"][label] for s in watched.query(filled(selector, board))}
        wanted = {job for job in JOBS if re.fullmatch(board["templating"]["list"][1]["allValue"], job)}
        if label == "job":
            assert found == wanted
        else:
            assert found == {t for job in wanted for t in watched.targets[job]}


@with_prometheus
def test_every_rule_has_data(watched):
    """Both sides of every `and`, `or` and `unless`, whether the alert fires or not."""
    empty = []
    for rule in (r for file in RULES.values() for group in file["groups"] for r in group["rules"]):
        for part in re.split(r"(?m)^(?:and|or|unless) ", rule["expr"]):
            if not has_no_data(part.strip()) and not watched.query(without_threshold(part)):
                empty.append((rule.get("alert") or rule["record"], part))
    assert empty == []


@with_prometheus
def test_rules_run_and_a_healthy_stack_pages_nobody(watched):
    def evaluated():
        return all(rule["health"] == "ok" for rule in watched.rules())

    wait_until(evaluated, 30, lambda: [r for r in watched.rules() if r["health"] != "ok"], pause=0.3)
    rules = {rule["name"]: rule for rule in watched.rules()}
    assert {a["alert"] for a in ALERTS} <= set(rules)
    # the recipients refused above are what ManyRefunds is there for
    assert {n for n, r in rules.items() if r.get("state", "inactive") != "inactive"} <= {"ManyRefunds"}
    with_data = {n for n in rules if n.startswith("job:") and watched.query(n)}
    assert with_data == {n for n in rules if n.startswith("job:")}


@with_prometheus
def test_a_dead_process_is_told(watched, stack):
    """A process that is killed, and started again: seen on the whole way from its target."""
    def state():
        return {r["name"]: r["state"] for r in watched.rules() if "state" in r}["TargetDown"]

    assert state() == "inactive"
    stack.kill("outboxd-2")
    wait_until(lambda: state() == "pending", 20, pause=0.3)
    stack.start("outboxd-2")
    wait_until(lambda: state() == "inactive", 20, pause=0.3)
