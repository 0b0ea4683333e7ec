"""The Compose file, started: a message goes through all of it (make compose-test).

The settings of this file's services that a run may need to change are variables of it, images among them. Where
an image cannot be had, COMPOSE_TEST_WITHOUT names the services to leave out ("grafana jaeger").
"""

import json
import os
import re
import subprocess
import time

import pytest
import requests
from containers import COMPOSE, COMPOSE_FILE, DAEMON_SERVICES, REPOSITORY, compose_file, container, interpolated
from harness.client import Api
from harness.keys import KeyedApi, wait_known
from harness.operators import Operator
from harness.stack import PortRange
from harness.wait import wait_until

PROJECT = "messaging-test"
DOCUMENT = (REPOSITORY / "docs" / "compose.md").read_text()
REPLICAS = 3
PORTS = ["API", "DB", "RABBITMQ", "RABBITMQ_MANAGEMENT", "RABBITMQ_METRICS", "OPERATOR_A", "OPERATOR_B", "PROMETHEUS",
         "GRAFANA", "JAEGER", "OTLP_GRPC", "OTLP_HTTP"]
ENDING = ["migrate", "accounts"]
WITHOUT = set((os.environ.get("COMPOSE_TEST_WITHOUT") or "").split())


class Platform:
    def __init__(self):
        self.ports = PortRange()
        self.environment = {
            **os.environ, "COMPOSE_PROFILES": "observability", "CONSUMERD_REPLICAS": str(REPLICAS),
            "PRICE_EXPRESS": "7",  # a setting as somebody's shell gives it
            "CONSUMERD_DB_PASSWORD": "it's \\ odd",
            "USER_RATE_LIMIT_RPS": "0", "USER_READ_LIMIT_RPS": "0", "GLOBAL_RATE_LIMIT_RPS": "0",
            **{f"{name}_HOST_PORT": str(self.ports.base + i) for i, name in enumerate(PORTS)}}
        self.file = interpolated(compose_file(), self.environment)
        self.services = [s for s, d in self.file["services"].items() if s not in WITHOUT and "load" not in d.get("profiles", [])]

    def compose(self, *words, timeout=600):
        done = subprocess.run([*COMPOSE, "-p", PROJECT, "-f", COMPOSE_FILE, *words], cwd=REPOSITORY, env=self.environment,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout)
        assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout[-5000:]}"
        return done.stdout

    def containers(self, service):
        return sorted(container("ps", "-a", "--format", "{{.Names}}", "--filter", f"label=com.docker.compose.project={PROJECT}",
                                "--filter", f"label=com.docker.compose.service={service}").split())

    def state(self, name):
        return json.loads(container("container", "inspect", name))[0]["State"]

    def ended(self, service):
        (name,) = self.containers(service)
        state = self.state(name)
        assert state["Status"] != "exited" or state["ExitCode"] == 0, self.logs(name)
        return state["Status"] == "exited"

    def logs(self, name):
        done = container("logs", name, check=False)
        return done.stdout + done.stderr

    def healthy(self, service):
        """The service's own check, run here: not every engine runs it by itself."""
        test = self.file["services"][service]["healthcheck"]["test"]
        words = ["/bin/sh", "-c", test[1]] if test[0] == "CMD-SHELL" else test[1:]
        return all(container("exec", name, *words, check=False).returncode == 0 for name in self.containers(service))

    def url(self, name):
        return f"http://127.0.0.1:{self.environment[f'{name}_HOST_PORT']}"

    def start(self):
        first = ["mysql", "rabbitmq"]
        self.compose("up", "-d", "--no-build", *first)
        for service in first:
            wait_until(lambda service=service: self.healthy(service), 120, lambda: f"{service}: {self.logs(self.containers(service)[0])[-2000:]}", pause=1)
        for service in ENDING:  # one after the other: not every engine waits until one has ended
            self.compose("up", "-d", "--no-build", service)
            wait_until(lambda service=service: self.ended(service), 60, service, pause=0.5)
        self.compose("up", "-d", "--no-build", *self.services)
        api = Api(self.url("API"))

        def ready():
            try:
                return api.get("/readyz").status_code == 200
            except requests.ConnectionError:
                return False

        wait_until(ready, 60, lambda: self.logs(self.containers("msg-api")[0])[-2000:], pause=0.5)
        return api


@pytest.fixture(scope="module")
def platform():
    platform = Platform()
    try:
        platform.api = platform.start()
        yield platform
    finally:
        platform.compose("down", "-v")
        platform.ports.release()


def prometheus(platform, query):
    answer = requests.get(f"{platform.url('PROMETHEUS')}/api/v1/query", params={"query": query}, timeout=10).json()
    assert answer["status"] == "success", answer
    return answer["data"]["result"]


def test_everything_runs(platform):
    for service in platform.services:
        names = platform.containers(service)
        assert len(names) == (REPLICAS if service == "msg-consumerd" else 1), service
        for name in names:
            state = platform.state(name)
            if service in ("passwords", *ENDING):
                assert (state["Status"], state["ExitCode"]) == ("exited", 0)
            else:
                assert state["Status"] == "running", platform.logs(name)[-2000:]
    for service in DAEMON_SERVICES:
        for name in platform.containers(service):
            test = ["/usr/bin/" + DAEMON_SERVICES[service], "--health"]
            wait_until(lambda name=name, test=test: container("exec", name, *test, check=False).returncode == 0, 30, name, pause=0.5)
            assert container("exec", name, "/usr/bin/id", "-u") == "65532"
            assert container("exec", name, "/usr/bin/touch", "/usr/x", check=False).returncode != 0


def test_a_message_goes_through(platform):
    customer = platform.api.funded(100)
    sent = platform.api.sent(customer, ["09128582812", "091285284834"], type="express")
    assert sent["price"] == 14, "PRICE_EXPRESS of the shell was not passed on"
    assert set(platform.api.wait_final(customer, sent["message_identifier"]).values()) == {"done"}
    assert platform.api.balance(customer) == 86
    accepted = Operator("operatorA", platform.url("OPERATOR_A")).counts()["accepted"]
    assert accepted >= 2


def in_database(account, password, statement):
    return container("exec", "-i", "messaging_platform_mysql", "sh", "-c",
                     'MYSQL_PWD=$2 "$(command -v mysql || command -v mariadb)" --protocol=tcp --host=127.0.0.1 -u"$1" '
                     'messaging_platform -N -e "$3"', "sh", account, password, statement, check=False)


def test_each_daemon_has_its_own_account(platform):
    """... and no more rights than it needs."""
    users = in_database("root", "root_pass", "SELECT DISTINCT user FROM information_schema.processlist WHERE db = 'messaging_platform'")
    assert {"msg_api", "msg_outboxd", "msg_consumerd"} == set(users.stdout.split()) - {"root"}, users
    password = platform.environment["CONSUMERD_DB_PASSWORD"]
    assert in_database("msg_consumerd", password, "SELECT COUNT(*) FROM messages").returncode == 0
    for account, secret, statement in (("msg_consumerd", password, "SELECT * FROM api_keys"),
                                       ("msg_consumerd", password, "DELETE FROM user_transactions"),
                                       ("msg_api", "api_pass", "ALTER TABLE messages ADD COLUMN x INT"),
                                       ("msg_outboxd", "outboxd_pass", "SELECT * FROM idempotency_keys")):
        refused = in_database(account, secret, statement)
        assert refused.returncode != 0 and "denied" in refused.stderr, refused


def test_all_replicas_take_part(platform):
    customer = platform.api.funded(100_000)
    sent = [platform.api.sent(customer, [f"09{i:09d}" for i in range(n * 20, n * 20 + 20)]) for n in range(300)]
    for answer in sent:
        assert set(platform.api.wait_final(customer, answer["message_identifier"], 60).values()) == {"done"}

    def shares():
        return {r["metric"]["instance"]: float(r["value"][1]) for r in
                prometheus(platform, 'sum by (instance) (worker_events_total{job="messaging-platform-consumerd"})')}

    # As Prometheus has seen it after its next scrape.
    wait_until(lambda: len(shares()) == REPLICAS and all(v > 0 for v in shares().values())
               and sum(shares().values()) >= 300, 60, lambda: f"events of each replica: {shares()}", pause=1)
    print(f"events of each replica: {shares()}")
    assert platform.api.balance(customer) == 100_000 - 300 * 20


def test_prometheus_finds_every_replica(platform):
    expected = {"messaging-platform-api": 1, "messaging-platform-outboxd": 1, "messaging-platform-consumerd": REPLICAS,
                "rabbitmq": 1, "rabbitmq-queues": 1}

    def targets():
        answer = requests.get(f"{platform.url('PROMETHEUS')}/api/v1/targets", params={"state": "active"}, timeout=10).json()
        return [(t["labels"]["job"], t["health"], t["lastError"]) for t in answer["data"]["activeTargets"]]

    def all_up():
        seen = targets()
        return {job: sum(t[0] == job for t in seen) for job in expected} == expected and all(t[1] == "up" for t in seen)

    wait_until(all_up, 90, lambda: f"{targets()}", pause=1)
    names = {r["metric"]["__name__"] for r in prometheus(platform, '{job="rabbitmq-queues",queue="message_express"}')}
    assert names, "RabbitMQ's own metrics of queues"
    rules = requests.get(f"{platform.url('PROMETHEUS')}/api/v1/rules", timeout=10).json()["data"]["groups"]
    assert rules and all(r["health"] != "err" for g in rules for r in g["rules"])


@pytest.mark.skipif("jaeger" in WITHOUT, reason="without Jaeger")
def test_traces_reach_jaeger(platform):
    customer = platform.api.funded(10)
    platform.api.wait_final(customer, platform.api.sent(customer)["message_identifier"])

    def whole():
        answer = requests.get(f"{platform.url('JAEGER')}/api/traces", timeout=10,
                              params={"service": "msg-api", "operation": "POST /messages/send", "limit": 100}).json()
        return any({"msg-api", "msg-outboxd", "msg-consumerd"} <= {p["serviceName"] for p in trace["processes"].values()}
                   for trace in answer["data"] or [])

    wait_until(whole, 60, "one trace of a message through all three daemons", pause=1)


@pytest.mark.skipif("grafana" in WITHOUT, reason="without Grafana")
def test_grafana_is_provisioned(platform):
    def get(path):
        answer = requests.get(platform.url("GRAFANA") + path, auth=("admin", "admin"), timeout=10)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def reached():
        try:
            return get("/api/health")["database"] == "ok"
        except requests.ConnectionError:
            return False

    wait_until(reached, 60, "Grafana", pause=1)
    files = [json.loads(f.read_text()) for f in (REPOSITORY / "grafana" / "dashboards").glob("*.json")]
    assert {d["uid"] for d in files} == {d["uid"] for d in get("/api/search?type=dash-db")}
    for source in get("/api/datasources"):
        if source["type"] == "prometheus":
            assert get(f"/api/datasources/uid/{source['uid']}/health")["status"] == "OK"
            break
    else:
        raise AssertionError("no Prometheus among the data sources")


def test_the_documented_commands(platform):
    """What docs/compose.md has a newcomer call, and run inside the database's container; and the audit."""
    (calls,) = re.findall(r"^Charge an account and send:\n\n```sh\n(.*?)```", DOCUMENT, re.M | re.S)
    done = subprocess.run(["sh", "-e", "-c", calls.replace("http://localhost:8080", platform.url("API"))],
                          env={**os.environ, "no_proxy": "*"}, capture_output=True, text=True, timeout=30)
    assert re.search(r'"balance":\d+.*"status":"processing","recipients":2.*"recipient":"091285284834"', done.stdout, re.S), done
    rows = container("exec", "-i", "messaging_platform_mysql", "mysql", "-umessage_user", "-pmessage_pass", "messaging_platform",
                     "-N", "-e", "SELECT COUNT(*) FROM messages")
    assert int(rows.split()[-1]) >= 301
    audit = json.loads(container("exec", platform.containers("msg-api")[0], "/usr/bin/msg-api", "audit", "--quiesced", "--json",
                                 "--operators", "http://operator-sim-a:9001,http://operator-sim-b:9001"))
    assert audit["violations"] == 0 and all(c["violations"] == 0 for c in audit["checks"]), audit


def test_a_replica_stops_without_loss(platform):
    """SIGTERM to one consumer while messages come: it ends with 0 and the others go on."""
    customer = platform.api.funded(10_000)
    name = platform.containers("msg-consumerd")[-1]
    sent = [platform.api.sent(customer) for _ in range(100)]
    began = time.monotonic()
    container("stop", "-t", "30", name)
    assert time.monotonic() - began < 25
    assert platform.state(name)["ExitCode"] == 0
    sent += [platform.api.sent(customer) for _ in range(100)]
    for answer in sent:
        assert set(platform.api.wait_final(customer, answer["message_identifier"], 60).values()) == {"done"}
    container("start", name)


def test_data_outlives_the_containers(platform):
    """The named volumes: what was sent is there after all of it was taken down and started again."""
    customer = platform.api.funded(50)
    sent = platform.api.sent(customer)
    platform.api.wait_final(customer, sent["message_identifier"])
    platform.compose("down")
    assert not any(platform.containers(s) for s in platform.services)
    platform.api = platform.start()
    assert platform.api.balance(customer) == 49
    again = platform.api.sent(customer)
    assert set(platform.api.wait_final(customer, again["message_identifier"]).values()) == {"done"}


def test_keys_are_one_word_away(platform):
    """... and the first one comes from the migration's container."""
    platform.compose("down")
    platform.environment["API_AUTH"] = "required"
    platform.api = platform.start()
    assert platform.api.get("/balance", user_id=1).status_code == platform.api.send(1).status_code == 401
    said = platform.compose("run", "--rm", "migrate", "key", "bootstrap")
    platform.api = KeyedApi(platform.api.url, re.search(r"\bmsg_live_\w+", said)[0])
    wait_known(platform.api)
    customer = platform.api.funded(10)
    platform.api.wait_final(customer, platform.api.sent(customer)["message_identifier"])
    assert "msg_live_" not in platform.compose("run", "--rm", "migrate", "key", "bootstrap"), "a second first key"
