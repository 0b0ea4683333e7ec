"""compose/compose.yaml, .env, Dockerfile and .dockerignore as far as they can be judged without containers."""

import json
import os
import re
import shutil
import subprocess

import jsonschema
import pytest
import yaml
from containers import COMPOSE_FILE, DAEMON_SERVICES as DAEMONS, PORTS, REPOSITORY, binary, compose_file, environment_of, interpolated, settings

TOOLS = REPOSITORY / "test" / "deploy" / "compose" / "node_modules"
SERVICES = {"migrate": "msg-api", **DAEMONS}
# The same in every container: published ports, other services and Prometheus rely on them.
FIXED = {"LISTEN_ADDR", "SIM_NAME"}
# The daemons' accounts in the database, as sql/grants.sql names them, and where their passwords come from.
ACCOUNTS = {service: (service.replace("-", "_"), service.removeprefix("msg-").upper() + "_DB_PASSWORD")
            for service in ("msg-api", "msg-outboxd", "msg-consumerd")}
tools = pytest.mark.skipif(not TOOLS.is_dir(), reason="needs `npm ci` in test/deploy/compose")


@pytest.fixture(scope="module")
def raw():
    return compose_file()


@pytest.fixture(scope="module")
def resolved():
    return compose_file({})


# ---- settings ----

@pytest.mark.parametrize("service", DAEMONS)
def test_every_setting_can_be_given(raw, service):
    """By its own name, from the shell or .env: passed on as it is, or in place of the default written here."""
    given = raw["services"][service]["environment"]
    known = settings(DAEMONS[service])
    assert set(known) == set(given), "missing, or not the program's"
    for name in set(given) - FIXED - ({"DB_USER_NAME", "DB_PASSWORD"} if service in ACCOUNTS else set()):
        assert given[name] is None or f"${{{name}:-" in given[name], name


def test_migrate_knows_the_database_and_not_the_broker(raw):
    given = set(raw["services"]["migrate"]["environment"])
    assert {n for n in settings("msg-api") if n.startswith("DB_") and not n.startswith("DB_READ_")} <= given
    assert not [n for n in given if n.startswith("RABBIT")]


@pytest.mark.parametrize("service", SERVICES)
def test_the_programs_accept_what_they_are_given(resolved, service):
    environment = environment_of(resolved["services"][service], {})
    if service == "migrate":
        environment["RABBIT_URI"] = "amqp://none/"  # which a verb does without
    done = subprocess.run([binary(SERVICES[service]), "--check"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if service in DAEMONS:
        assert environment["LISTEN_ADDR"] == f":{PORTS[SERVICES[service]]}"


def test_overrides_win():
    """The examples of the documentation: limits and back-pressure for one start."""
    shell = {"GLOBAL_RATE_LIMIT_RPS": "2", "BACKPRESSURE_OUTBOX_PENDING_THRESHOLD": "0", "DB_PASSWORD": "other",
             "OUTBOXD_DB_PASSWORD": "own", "CONSUMERD_REPLICAS": "5", "DB_IMAGE": "mariadb:10.11", "API_HOST_PORT": "9999"}
    services = compose_file(shell)["services"]
    api = environment_of(services["msg-api"], shell)
    assert api["GLOBAL_RATE_LIMIT_RPS"] == "2" and api["BACKPRESSURE_OUTBOX_PENDING_THRESHOLD"] == "0"
    assert "USER_RATE_LIMIT_RPS" not in api
    assert environment_of(services["migrate"], shell)["DB_PASSWORD"] == "other"
    assert environment_of(services["msg-outboxd"], shell)["DB_PASSWORD"] == "own"
    assert services["mysql"]["environment"]["MYSQL_PASSWORD"] == "other"
    assert services["mysql"]["image"] == "mariadb:10.11"
    assert services["msg-consumerd"]["deploy"]["replicas"] == "5"
    assert services["msg-api"]["ports"] == ["127.0.0.1:9999:8080"]


def test_nobody_is_stopped_before_its_drain(resolved):
    for service, program in DAEMONS.items():
        grace = re.fullmatch(r"(\d+)s", resolved["services"][service]["stop_grace_period"])
        known = settings(program)
        assert int(grace[1]) * 1000 >= int(known["SHUTDOWN_DELAY_MS"]) + int(known["DRAIN_TIMEOUT_MS"]) + 5000, service


# ---- services ----

def test_ports_are_published_on_the_loopback_alone(resolved):
    published = [p for s in resolved["services"].values() for p in s.get("ports", [])]
    assert all(p.startswith("127.0.0.1:") for p in published), published
    pairs = {tuple(map(int, p.split(":")[1:])) for p in published}
    assert len(pairs) == len(published)
    assert pairs == {(p, p) for p in (8080, 3000, 9090, 16686, 15672, 15692, 5672, 3306, 4317, 4318, 9001)} | {(9002, 9001)}


KNOWN = {"DB_PASSWORD", "DB_ROOT_PASSWORD", "RABBITMQ_DEFAULT_PASS", "GRAFANA_PASSWORD", "API_AUTH",
         *(password for _, password in ACCOUNTS.values())}


@pytest.mark.parametrize("shell, refused", [
    ({}, set()),
    ({"PUBLISH_ADDR": "127.0.0.2"}, set()),
    ({"PUBLISH_ADDR": "0.0.0.0"}, KNOWN),
    ({"PUBLISH_ADDR": "192.0.2.1", "DB_PASSWORD": "x", "GRAFANA_PASSWORD": "y", "API_AUTH": "required"}, KNOWN - {"DB_PASSWORD", "GRAFANA_PASSWORD", "API_AUTH"}),
    ({"PUBLISH_ADDR": "0.0.0.0", **dict.fromkeys(KNOWN, "x"), "API_AUTH": "required"}, set()),
], ids=["default", "loopback", "everywhere", "some", "own"])
def test_known_passwords_are_not_published(shell, refused):
    services = compose_file(shell)["services"]
    guard = services["passwords"]
    done = subprocess.run(guard["entrypoint"], env={"PATH": os.environ["PATH"], **environment_of(guard, shell)},
                          capture_output=True, text=True)
    assert (done.returncode != 0) == bool(refused), done.stderr
    assert {name for name in KNOWN if re.search(rf"\b{name}\b", done.stderr)} == refused
    # Nobody begins before it has ended well.
    for name in set(services) - {"passwords"}:
        before, left = set(), [name]
        while left:
            waits = services[left.pop()].get("depends_on", {})
            left += set(waits) - before
            before |= set(waits)
        assert "passwords" in before or services[name].get("profiles") == ["load"], name
        condition = services[name].get("depends_on", {}).get("passwords", {}).get("condition")
        assert condition in (None, "service_completed_successfully"), name
    # What it looks at is what the others get.
    given = [str(v) for s in services.values() for v in s.get("environment", {}).values()]
    assert all(given.count(v) > 1 for n, v in guard["environment"].items() if n in KNOWN - {"API_AUTH"})


def test_memory_and_rights_are_bounded(resolved):
    for name, service in resolved["services"].items():
        assert re.fullmatch(r"\d+[mg]", service["mem_limit"]), name
        assert service["cap_drop"] == ["ALL"] and "no-new-privileges" in service["security_opt"], name


def test_keys_are_off_on_the_loopback_alone(resolved):
    """... and on with one word."""
    api = resolved["services"]["msg-api"]
    assert api["environment"]["API_AUTH"] == "off"
    assert [p for p in api["ports"] if not p.startswith("127.0.0.1:")] == []
    strict = environment_of(compose_file({"API_AUTH": "required"})["services"]["msg-api"], {"API_AUTH": "required"})
    assert strict["API_AUTH"] == "required"


def test_names_and_users(resolved):
    services = resolved["services"]
    assert services["mysql"]["container_name"] == "messaging_platform_mysql"
    assert services["mysql"]["image"].partition("@")[0] == "mysql:8.4"  # a release names the digest, too
    mysql, rabbit = services["mysql"]["environment"], services["rabbitmq"]["environment"]
    assert (mysql["MYSQL_USER"], mysql["MYSQL_PASSWORD"]) == ("message_user", "message_pass")
    assert mysql["MYSQL_DATABASE"] == "messaging_platform"
    assert (rabbit["RABBITMQ_DEFAULT_USER"], rabbit["RABBITMQ_DEFAULT_PASS"]) == ("rabbit_user", "rabbit_pass")
    grafana = services["grafana"]["environment"]
    assert (grafana["GF_SECURITY_ADMIN_USER"], grafana["GF_SECURITY_ADMIN_PASSWORD"]) == ("admin", "admin")
    for service in DAEMONS:
        if "DB_HOST" in services[service]["environment"]:
            environment = services[service]["environment"]
            assert environment["DB_HOST"] == "mysql"
            assert environment["RABBIT_URI"] == "amqp://rabbit_user:rabbit_pass@rabbitmq:5672/"
    for url in re.findall(r"http://([\w-]+):(\d+)", services["msg-consumerd"]["environment"]["OPERATORS"]):
        assert url[0] in services and int(url[1]) == PORTS["operator-sim"]


def test_each_daemon_has_an_account_of_its_own():
    """What `accounts` makes is what sql/grants.sql grants to, and what the daemons come with; no two share a password."""
    shell = {"DB_NAME": "other", **{password: f"of {account}" for account, password in ACCOUNTS.values()}}
    services = compose_file(shell)["services"]
    accounts = services["accounts"]
    script = accounts["entrypoint"][-1]
    granted = (REPOSITORY / "sql" / "grants.sql").read_text()
    assert set(re.findall(r"(?m)^GRANT .* TO '(\w+)'@", granted)) == {account for account, _ in ACCOUNTS.values()}
    for service, (account, password) in ACCOUNTS.items():
        given = services[service]["environment"]
        assert (given["DB_USER_NAME"], given["DB_PASSWORD"]) == (account, f"of {account}")
        assert accounts["environment"][password] == f"of {account}" and f'account {account} "${password}"' in script
    assert accounts["environment"]["MYSQL_PWD"] == services["mysql"]["environment"]["MYSQL_ROOT_PASSWORD"]
    source, target, _ = accounts["volumes"][0].split(":")
    assert (COMPOSE_FILE.parent / source).resolve() == REPOSITORY / "sql" / "grants.sql" and target in script
    defaults = compose_file({})["services"]
    assert len({defaults[s]["environment"]["DB_PASSWORD"] for s in ("migrate", *ACCOUNTS)}) == 4


def test_starts_wait_for_what_they_need(resolved):
    services = resolved["services"]

    def waits(service):
        return {k: v["condition"] for k, v in services[service].get("depends_on", {}).items()}

    assert waits("migrate") == {"mysql": "service_healthy"}
    assert waits("accounts") == {"migrate": "service_completed_successfully"}
    assert waits("mysql") == waits("rabbitmq") == {"passwords": "service_completed_successfully"}
    for service in ("msg-api", "msg-outboxd", "msg-consumerd"):
        assert waits(service)["accounts"] == "service_completed_successfully", service
    for service in ("msg-outboxd", "msg-consumerd"):
        assert waits(service)["rabbitmq"] == "service_healthy", service
    for service in services:
        for other, condition in waits(service).items():
            assert other in services
            if condition == "service_healthy":
                assert services[other]["healthcheck"]["test"], other
    assert services["msg-api"]["environment"]["MIGRATE_ON_START"] == "false"
    ending = {"migrate", "accounts", "msg-loadtest", "passwords"}
    for name, service in services.items():
        assert service["restart"] == ("no" if name in ending else "unless-stopped"), name


def test_daemons_are_confined(resolved):
    for service in (*SERVICES, "msg-loadtest"):
        s = resolved["services"][service]
        assert s["read_only"] is True and s["cap_drop"] == ["ALL"], service
        assert "no-new-privileges" in s["security_opt"] and not s.get("privileged")


def test_consumers_can_be_scaled(resolved):
    consumer = resolved["services"]["msg-consumerd"]
    assert int(consumer["deploy"]["replicas"]) == 3
    assert "container_name" not in consumer and "ports" not in consumer


def test_webhooks_may_run_alone(resolved):
    """When they are asked for, with all that concerns them, and without what does not."""
    service = resolved["services"]["msg-webhooks"]
    assert service["profiles"] == ["webhooks"] and "ports" not in service
    given = environment_of(service, {})
    assert given["CONSUMERD_PARTS"] == "webhooks" and given["DB_USER_NAME"] == "msg_consumerd"
    assert {n for n in settings("msg-consumerd") if n.startswith("WEBHOOK_")} <= set(service["environment"])
    assert not [n for n in service["environment"] if n.startswith(("RABBIT", "OPERATOR"))]
    done = subprocess.run([binary("msg-consumerd"), "--check"], env=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_images_are_this_repositorys_targets(resolved):
    stages = re.findall(r"^FROM \S+ AS (\S+)", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)
    for name, service in resolved["services"].items():
        if "build" in service:
            assert (COMPOSE_FILE.parent / service["build"]["context"]).resolve() == REPOSITORY
            assert service["build"]["target"] in stages
            assert service["image"] == f"distributed-messaging-platform/{service['build']['target']}:latest", name
        else:
            assert re.search(r":v?\d", service["image"]), f"{name}: an image without a version"


# ---- what watches them ----

def test_prometheus_finds_the_services(resolved):
    services = resolved["services"]
    mounts = dict(v.split(":")[:2] for v in services["prometheus"]["volumes"] if v.startswith("."))
    folder = next(k for k, v in mounts.items() if v == "/etc/prometheus")
    path = (COMPOSE_FILE.parent / folder / "prometheus.yml").resolve()
    assert "--config.file=/etc/prometheus/prometheus.yml" in services["prometheus"]["command"]
    found = set()
    for job in yaml.safe_load(path.read_text())["scrape_configs"]:
        for sd in job["dns_sd_configs"]:
            found |= {(name, sd["port"]) for name in sd["names"]}
    assert {name for name, _ in found} <= set(services)
    assert found == {("msg-api", 8080), ("msg-outboxd", 8081), ("msg-consumerd", 8082), ("msg-webhooks", 8082),
                     ("rabbitmq", 15692)}


def test_grafana_finds_its_configuration(resolved):
    grafana = resolved["services"]["grafana"]
    mounts = {target: (COMPOSE_FILE.parent / source).resolve()
              for source, target in (v.split(":")[:2] for v in grafana["volumes"] if v.startswith("."))}
    provisioning = mounts["/etc/grafana/provisioning"]
    for provider in (provisioning / "dashboards").glob("*.yml"):
        for entry in yaml.safe_load(provider.read_text())["providers"]:
            assert list(mounts[entry["options"]["path"]].glob("*.json")), entry
    for sources in (provisioning / "datasources").glob("*.yml"):
        for source in yaml.safe_load(sources.read_text())["datasources"]:
            for variable in re.findall(r"\$\{?([A-Z_]+)", str(source["url"])):
                assert grafana["environment"][variable].startswith("http://"), variable


def test_traces_go_to_jaeger(resolved):
    services = resolved["services"]
    for service in ("msg-api", "msg-outboxd", "msg-consumerd"):
        assert services[service]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://jaeger:4318"
    assert services["jaeger"]["environment"]["COLLECTOR_OTLP_ENABLED"] == "true"


def test_dot_env_starts_all_of_it(raw):
    lines = (REPOSITORY / ".env").read_text().splitlines()
    values = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert (REPOSITORY / values["COMPOSE_FILE"]).resolve() == COMPOSE_FILE
    profiles = {p for s in raw["services"].values() for p in s.get("profiles", [])}
    on = set(values["COMPOSE_PROFILES"].split(","))
    assert on == {"observability"} and on < profiles
    assert {n for n, s in raw["services"].items() if on & set(s.get("profiles", []))} == {"prometheus", "grafana", "jaeger"}
    done = subprocess.run(["git", "check-ignore", "-q", ".env"], cwd=REPOSITORY)
    assert done.returncode != 0, ".env is ignored by git"


# ---- the cluster ----

CLUSTER_FILE = COMPOSE_FILE.with_name("cluster.yaml")
CLUSTER_PROGRAMS = {**SERVICES, "operator-sim-a": "operator-sim", "operator-sim-b": "operator-sim"}


@pytest.fixture(scope="module")
def cluster():
    return interpolated(yaml.safe_load(CLUSTER_FILE.read_text()), {})


@pytest.mark.parametrize("service", CLUSTER_PROGRAMS)
def test_programs_accept_what_the_cluster_gives_them(cluster, service):
    environment = environment_of(cluster["services"][service], {})
    assert set(environment) <= set(settings(CLUSTER_PROGRAMS[service]))
    if service == "migrate":
        environment["RABBIT_URI"] = "amqp://none/"  # which a verb does without
    done = subprocess.run([binary(CLUSTER_PROGRAMS[service]), "--check"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_cluster_has_three_nodes_and_two_servers(cluster):
    services = cluster["services"]
    nodes = sorted(n for n in services if n.startswith("rabbitmq-"))
    assert len(nodes) == 3 and {services[n]["hostname"] for n in nodes} == set(nodes)
    api = services["msg-api"]["environment"]
    assert re.findall(r"@(rabbitmq-\d):5672/", api["RABBIT_URI"]) == nodes
    assert [f"rabbit@{n}" for n in nodes] == re.findall(r"nodes\.\d = (\S+)", cluster["configs"]["rabbitmq"]["content"])
    servers = api["DB_HOST"].split(",")
    assert servers == ["db-1", "db-2"]
    commands = [services[s]["command"] for s in servers]
    assert len({c[0] for c in commands}) == 2 and commands[0][1:] == commands[1][1:]
    assert {"--read-only=1", "--sync-binlog=1", "--innodb-flush-log-at-trx-commit=1"} <= set(commands[0])


def test_the_clusters_services_are_confined(cluster):
    services = cluster["services"]
    assert [p for s in services.values() for p in s.get("ports", [])] == ["127.0.0.1:8080:8080"]
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"] and "no-new-privileges" in service["security_opt"], name
        assert re.fullmatch(r"\d+[mg]", service["mem_limit"]) and re.search(r":(v?\d|latest$)", service["image"]), name
        assert set(service.get("depends_on", {})) <= set(services), name
        used = {v.split(":")[0] for v in service.get("volumes", []) if not v.startswith(".")}
        assert used <= set(cluster["volumes"]), name
        assert {c["source"] for c in service.get("configs", [])} <= set(cluster["configs"]), name


def test_what_the_cluster_carries_can_be_read(cluster, tmp_path):
    """HAProxy's configuration by HAProxy, the script by a shell."""
    texts = {name: config["content"] for name, config in cluster["configs"].items()}
    (tmp_path / "haproxy.cfg").write_text(texts["haproxy"])
    haproxy = shutil.which("haproxy", path=os.environ["PATH"] + ":/usr/sbin")
    done = subprocess.run([haproxy, "-c", "-f", tmp_path / "haproxy.cfg"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for script in (texts["promote"], cluster["services"]["accounts"]["entrypoint"][-1]):
        done = subprocess.run(["sh", "-n"], input=script, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    granted = (REPOSITORY / "sql" / "grants.sql").read_text()
    for account in set(re.findall(r"(?m)^GRANT .* TO '(\w+)'@", granted)) | {"msg_migrate"}:
        assert f"CREATE USER IF NOT EXISTS {account} " in texts["promote"]


# ---- schema and lint ----

@tools
@pytest.mark.parametrize("environment", [{}, {"CONSUMERD_REPLICAS": "5", "DB_IMAGE": "mariadb:10.11"}], ids=["defaults", "overrides"])
def test_schema(environment):
    """The Compose specification's, which dclint carries; dclint itself looks at the file before interpolation."""
    schema = jsonschema.Draft7Validator(json.loads((TOOLS / "dclint" / "schemas" / "compose.schema.json").read_text()))
    schema.validate(compose_file(environment))
    schema.validate(interpolated(yaml.safe_load(CLUSTER_FILE.read_text()), environment))
    assert list(schema.iter_errors({"services": {"a": {"imagee": "x"}}}))  # it does say no


def node_version():
    node = shutil.which("node")
    text = subprocess.run([node, "--version"], stdout=subprocess.PIPE, text=True).stdout if node else "v0"
    return int(text.lstrip("v").split(".")[0])


@tools
@pytest.mark.skipif(node_version() < 20, reason="dclint needs Node.js 20.19 or later; Debian 12 has 18")
def test_dclint(tmp_path):
    def lint(path):
        return subprocess.run([TOOLS / ".bin" / "dclint", "-c", COMPOSE_FILE.parent / ".dclintrc", "--max-warnings", "0", path],
                              capture_output=True, text=True)

    for file in (COMPOSE_FILE, CLUSTER_FILE):
        done = lint(file)
        assert done.returncode == 0, done.stdout + done.stderr
    text = COMPOSE_FILE.read_text().replace("    mem_limit: 2g\n", "").replace("    container_name:", "    mem_limit: 2g\n    container_name:")
    (tmp_path / "compose.yaml").write_text(text)
    assert lint(tmp_path / "compose.yaml").returncode != 0  # it does say no


# ---- images ----

def instructions():
    """Instructions of the Dockerfile, their continued lines joined, without comments."""
    text = re.sub(r"^#.*\n", "", (REPOSITORY / "Dockerfile").read_text(), flags=re.MULTILINE)
    return [line for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip()]


def test_package_lists():
    """Explicit, in order, without recommended packages; what is built with is what test/deps installs."""
    development = set(re.search(r"^packages=\((.*?)\)", (REPOSITORY / "test" / "deps").read_text(), re.DOTALL | re.MULTILINE)[1].split())
    lists = [re.search(r"install -y (--no-install-recommends) ([^&]*)", line) for line in instructions() if "apt-get install" in line]
    assert len(lists) == 3 and all(lists)
    for packages in (match[2].split() for match in lists):
        assert packages == sorted(set(packages))
        if "gcc" in packages:
            assert set(packages) <= development
        elif "npm" not in packages:
            assert not [p for p in packages if p.endswith("-dev") or p in development], "for building, in an image"


def test_the_context_comes_last():
    """buildah, which takes no option behind it, is one of the engines that the Makefile names."""
    done = subprocess.run(["make", "--dry-run", "--always-make", "docker", "CONTAINER_BUILD=buildah build"], cwd=REPOSITORY,
                          check=True, capture_output=True, text=True)
    commands = re.findall(r"buildah build[^;|\n]*", done.stdout)
    assert len(commands) == 2
    for words in (c.split() for c in commands):
        assert words[-1] == "." and words.count(".") == 1, words


def test_forms():
    """Exec forms everywhere: no shell stands between the engine and a program."""
    lines = instructions()
    for line in lines:
        match = re.search(r"^(?:ENTRYPOINT|CMD|HEALTHCHECK .*CMD) (.*)", line)
        if match:
            assert isinstance(json.loads(match[1]), list), line
    assert lines.count("USER 65532:65532") == 1 and lines.count("STOPSIGNAL SIGTERM") == 1
    version = re.search(r"project\(\S+ VERSION (\S+)", (REPOSITORY / "CMakeLists.txt").read_text())[1]
    assert f"ARG VERSION={version}" in lines


def test_the_build_context_is_enough_and_small(tmp_path):
    """.dockerignore leaves out no file that the build needs, and nothing else in."""
    rules = [r for r in (REPOSITORY / ".dockerignore").read_text().split("\n") if r and not r.startswith("#")]
    assert rules[0] == "*"
    tracked = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=REPOSITORY, check=True,
                             capture_output=True, text=True).stdout.splitlines()

    def covers(rule, path):
        pattern = re.escape(rule).replace(r"\*\*/", "(?:.*/)?")
        return re.match(rf"{pattern}(?:/|$)", path)

    size = 0
    for path in tracked:
        inside = any(covers(r[1:], path) for r in rules if r.startswith("!"))
        outside = any(covers(r, path) for r in rules[1:] if not r.startswith("!"))
        if inside and not outside and (REPOSITORY / path).is_file():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / path, tmp_path / path)
            size += os.path.getsize(REPOSITORY / path)
    assert size < 4_000_000
    done = subprocess.run(["cmake", "-S", tmp_path, "-B", tmp_path / "build", "-G", "Ninja"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Every file that the programs' targets name is there: a dry run fails on one that is missing.
    targets = ["msg-api", "msg-outboxd", "msg-consumerd", "operator-sim", "msg-loadtest"]
    done = subprocess.run(["cmake", "--build", tmp_path / "build", "--target", *targets, "--", "-n"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
