"""k8s/ as it would be applied: rendered, held against the schemas, and against the daemons themselves.

There is no cluster here. What can be known without one: whether the API would take the objects, whether they
mean each other, and whether settings, ports and paths are the daemons' own.
"""

import copy
import itertools
import re
import shutil
import subprocess
import textwrap
from pathlib import Path

import pytest
import yaml
from k8s import checks
from k8s.manifests import IMAGE, NAMESPACE, REPOSITORY, SCHEMAS, SECRET, Objects, program, render, schema_problems, secret_template
from k8s.network import network_problems, selects

K8S = REPOSITORY / "k8s"
OVERLAYS = ["development", "production", "cluster"]
PRODUCTION = ("registry.example.com/distributed-messaging-platform", "0.1.0")  # the image that the overlay names
COMPONENTS = sorted(p.name for p in (K8S / "components").iterdir())
OPTIONAL = ["receipts", "webhooks"]  # in none of the two overlays
# What the two overlays are not made of: each component on each base that lacks it.
COMBINATIONS = {"development-autoscaled": ("development", ["autoscaling"]),
                "development-watched": ("development", ["monitoring"]),
                "development-complete": ("development", ["autoscaling", "monitoring", *OPTIONAL]),
                "production-complete": ("production", OPTIONAL)}

pytestmark = pytest.mark.skipif(not (shutil.which("kubectl") or shutil.which("kustomize")),
                                reason="needs kubectl or kustomize")
schemas = pytest.mark.skipif(not (SCHEMAS / "node_modules").is_dir(), reason="needs `npm ci` in test/deploy/k8s")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """Every way to put the parts together, each rendered once."""
    objects = {name: render(K8S / "overlays" / name) for name in OVERLAYS}
    for name, (overlay, components) in COMBINATIONS.items():
        # Inside the tree, as kustomize allows no absolute paths; in a copy, as nothing is to be left behind.
        tree = tmp_path_factory.mktemp(name)
        shutil.copytree(K8S, tree / "k8s")
        folder = tree / "k8s" / "overlays" / name
        folder.mkdir()
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(
            {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": NAMESPACE,
             "resources": [f"../{overlay}"], "components": [f"../../components/{c}" for c in components],
             "images": [{"name": IMAGE, "newName": PRODUCTION[0], "newTag": PRODUCTION[1]}] if overlay == "production" else []}))
        objects[name] = render(folder)
    return objects


ALL = [*OVERLAYS, *COMBINATIONS]
WITHOUT_SCHEMA = ["RabbitmqCluster"]  # npm has none; see test_a_cluster_of_three


def examples():
    """The YAML of the documentation, in its order."""
    text = (REPOSITORY / "docs/kubernetes.md").read_text()
    return [textwrap.dedent(e) for e in re.findall(r"^ *```yaml\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)]


@pytest.mark.parametrize("name", ALL)
def test_manifests_are_right(rendered, name):
    assert checks.problems(rendered[name]) == []


@schemas
def test_objects_fit_the_schemas(rendered):
    """Of all renderings in one call, without repetitions: each start of the compiler takes seconds."""
    objects = []
    for rendering in rendered.values():
        objects += [o for o in rendering if o not in objects and o["kind"] not in WITHOUT_SCHEMA]
    assert {o["kind"] for o in objects} >= {"Deployment", "StatefulSet", "ScaledObject", "PrometheusRule"}
    assert schema_problems(objects) == []


@schemas
def test_the_secret_template_fits_and_is_applied_by_nobody(rendered):
    template = secret_template()
    assert schema_problems([template]) == []
    assert template["metadata"] == {"name": SECRET, "namespace": NAMESPACE}
    texts = template["stringData"]
    assert set(texts) == {f"{d}_DB_PASSWORD" for d in ("MIGRATE", "API", "OUTBOXD", "CONSUMERD")} | {
        f"{d}_RABBIT_URI" for d in ("API", "OUTBOXD", "CONSUMERD")} | {"API_ADMIN_KEY"}
    files = [p for p in K8S.rglob("*") if p.suffix in (".yaml", ".yml", ".json")]
    assert files and not [p for p in files if "kind: Secret\n" in p.read_text()]
    # Left as it is, it starts nothing.
    assert "RABBIT_URI" in program("msg-outboxd").check({"DB_PASSWORD": "x", "RABBIT_URI": texts["OUTBOXD_RABBIT_URI"]})
    assert not rendered["production"].kind("Secret")


def test_each_has_its_own_account_and_sees_no_other(rendered):
    users = set()
    for w in rendered["production"].workloads():
        own = w.name.rpartition("-")[2].upper()
        users |= {checks.environment(rendered["production"], w, c).values["DB_USER_NAME"] for c in w.containers}
        keys = [i["key"] for v in w.pod["volumes"] if "secret" in v for i in v["secret"]["items"]]
        first = {"API_ADMIN_KEY"} if own == "MIGRATE" else set()  # which it makes the first key of
        assert keys and all(key.startswith(own + "_") for key in set(keys) - first), (w.name, keys)
    assert users == {"msg_migrate", "msg_api", "msg_outboxd", "msg_consumerd"}


def test_an_overlay_as_the_documentation_has_it(tmp_path):
    """Outside of the tree, on top of production."""
    example = examples()[0]
    shutil.copytree(K8S, tmp_path / "distributed-messaging-platform" / "k8s")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kustomization.yaml").write_text(textwrap.dedent(example))
    objects = render(tmp_path / "mine")
    assert checks.problems(objects) == []
    assert {c["image"] for w in objects.workloads() for c in w.containers} == {
        "registry.of.yours/distributed-messaging-platform:0.1.0"}
    assert config(objects, "messaging-platform-settings")["DB_HOST"] == "db.of.yours"
    assert "a.example.net" in config(objects, "messaging-platform-consumerd-settings")["OPERATORS"]


def test_the_way_in_that_the_documentation_has(rendered):
    """Its Ingress leads to Services that there are, and routes of the API that are for those who come from outside."""
    (ingress,) = [e for e in map(yaml.safe_load, examples()) if e.get("kind") == "Ingress"]
    assert not (SCHEMAS / "node_modules").is_dir() or schema_problems([ingress]) == []
    paths = [p for rule in ingress["spec"]["rules"] for p in rule["http"]["paths"]]
    assert {p["path"] for p in paths} == {"/messages", "/balance", "/webhooks", "/operators"}
    for p in paths:
        service = p["backend"]["service"]
        ports = spec(rendered["production-complete"], "Service", service["name"])["ports"]
        assert service["port"]["name"] in [port["name"] for port in ports]
        assert service["name"].endswith("receipts") == (p["path"] == "/operators")


def test_carriers_as_the_documentation_has_them(tmp_path):
    """Their files and secrets are where the daemons look that need them, and nowhere else."""
    (example,) = [e for e in examples() if "operators.d/twilio.ini" in e]
    shutil.copytree(K8S, tmp_path / "k8s")
    mine = tmp_path / "mine"
    shutil.copytree(REPOSITORY / "consumerd" / "operators.d", mine / "operators.d")
    (mine / "kustomization.yaml").write_text(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
        f"namespace: {NAMESPACE}\nresources: [../k8s/overlays/production]\n"
        "components: [../k8s/components/webhooks]\n" + example)
    objects = render(mine)
    for w in objects.workloads():
        c = w.containers[0]
        values = {e["name"]: e.get("value") for e in c["env"]}
        mounts = {m["mountPath"]: m["name"] for m in c["volumeMounts"]}
        volumes = {v["name"]: v for v in w.pod["volumes"]}
        assert ("OPERATORS_FILE" in values) == (w.name in (API, CONSUMERD)), w
        if w.name in (API, CONSUMERD):
            name = volumes[mounts[values["OPERATORS_FILE"]]]["configMap"]["name"]
            assert list(objects.get("ConfigMap", name)["data"]) == ["twilio.ini"]
            assert volumes[mounts[values["CREDENTIALS_DIRECTORY"]]]["secret"]["secretName"] == "operators"
            assert values["RECEIPT_REFERENCE_KEY_FILE"].startswith(values["CREDENTIALS_DIRECTORY"] + "/")


# Of rabbitmq.com/v1beta1, what is used here: the field and its type.
RABBITMQ_CLUSTER = {"replicas": int, "image": str, "persistence": dict, "resources": dict, "affinity": dict,
                    "terminationGracePeriodSeconds": int, "rabbitmq": dict}


def test_a_cluster_of_three(rendered):
    (cluster,) = rendered["cluster"].kind("RabbitmqCluster")
    assert cluster["apiVersion"] == "rabbitmq.com/v1beta1"
    assert {k: type(v) for k, v in cluster["spec"].items()} == RABBITMQ_CLUSTER
    assert cluster["spec"]["replicas"] == 3 and re.search(r":\d", cluster["spec"]["image"])
    assert set(cluster["spec"]["rabbitmq"]) == {"additionalConfig", "advancedConfig"}
    assert "cluster_partition_handling = pause_minority" in cluster["spec"]["rabbitmq"]["additionalConfig"].splitlines()
    (rule,) = cluster["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert rule["labelSelector"]["matchLabels"] == {"app.kubernetes.io/name": cluster["metadata"]["name"]}
    shared = config(rendered["cluster"], "messaging-platform-settings")
    assert len(shared["DB_HOST"].split(",")) > 1 and shared["RABBIT_QUEUE_GROUP_SIZE"] == "3"
    assert "cluster" not in [w.name for w in rendered["production"].workloads()]


def test_every_part_is_used():
    """No file lies beside the kustomizations that refer to their neighbours."""
    for folder in [K8S / "base", *(K8S / "components").iterdir(), *(K8S / "overlays").iterdir()]:
        kustomization = (folder / "kustomization.yaml").read_text()
        unused = [p.name for p in folder.iterdir() if p.name != "kustomization.yaml" and p.name not in kustomization]
        assert not unused, f"{folder.name}: {unused}"
    used = {Path(c).name for o in OVERLAYS for c in
            yaml.safe_load((K8S / "overlays" / o / "kustomization.yaml").read_text()).get("components", [])}
    assert used == set(COMPONENTS) - set(OPTIONAL)


def test_webhooks_alone_know_neither_broker_nor_operators_secrets(rendered):
    for name in ("development-complete", "production-complete"):
        objects = rendered[name]
        parts = {}
        for w in objects.workloads():
            if w.name in (CONSUMERD, WEBHOOKS):
                values = checks.environment(objects, w, w.containers[0]).values
                parts[w.name] = values["CONSUMERD_PARTS"]
                assert ("RABBIT_URI" in values) == (w.name == CONSUMERD)
        assert parts == {CONSUMERD: "lanes", WEBHOOKS: "webhooks"}
    assert all("CONSUMERD_PARTS" not in config(rendered[o], f"{CONSUMERD}-settings") for o in OVERLAYS)


def test_receipts_have_a_way_in_of_their_own(rendered):
    objects = rendered["production-complete"]
    (port,) = spec(objects, "Service", "messaging-platform-receipts")["ports"]
    assert config(objects, f"{API}-settings")["RECEIPTS_LISTEN_ADDR"] == f":{port['port']}"
    assert [p["targetPort"] for p in spec(objects, "Service", API)["ports"]] == ["http"]


def test_alerts_are_those_of_prometheus():
    subprocess.run([REPOSITORY / "test/deploy/prometheusrule", "--check"], check=True)
    rule = yaml.safe_load((K8S / "components/monitoring/prometheusrule.yaml").read_text())
    sources = [yaml.safe_load((REPOSITORY / "grafana/prometheus/rules" / f).read_text())["groups"]
               for f in ("recording.yml", "alerts.yml")]
    assert rule["spec"]["groups"] == sum(sources, [])


def test_jobs_are_those_of_the_rules(rendered):
    """Rules and dashboards select by job; an operator's Prometheus calls a job as its Service, or as relabelled."""
    config = yaml.safe_load((REPOSITORY / "grafana/prometheus/prometheus.yml").read_text())
    objects = rendered["development-complete"]
    jobs = set()
    for monitor in objects.kind("ServiceMonitor"):
        services = [s for s in objects.kind("Service") if selects(monitor["spec"]["selector"], s["metadata"]["labels"])]
        for service, endpoint in itertools.product(services, monitor["spec"]["endpoints"]):
            relabelled = [r["replacement"] for r in endpoint.get("relabelings", []) if r["targetLabel"] == "job"]
            jobs.add(relabelled[0] if relabelled else service["metadata"]["name"])
    assert jobs == {s["job_name"] for s in config["scrape_configs"]}


def test_keys_are_asked_for(rendered):
    """The first one is the installer's, and the migration alone sees it."""
    for objects in rendered.values():
        assert config(objects, "messaging-platform-api-settings")["API_AUTH"] == "required"
        for w in objects.workloads():
            seen = [v for v in w.pod.get("volumes", []) for i in v.get("secret", {}).get("items", [])
                    if i["key"] == "API_ADMIN_KEY"]
            assert bool(seen) == (w.name == "messaging-platform-migrate"), w


def test_names_that_people_rely_on(rendered):
    objects = rendered["development"]
    ports = {s["metadata"]["name"]: [p["port"] for p in s["spec"]["ports"]] for s in objects.kind("Service")}
    assert ports == {"messaging-platform-api": [8080], "messaging-platform-outboxd": [8081],
                     "messaging-platform-consumerd": [8082], "mysql": [3306], "rabbitmq": [5672, 15672, 15692],
                     "operator-a": [9001], "operator-b": [9001]}
    assert {w.name for w in objects.workloads() if w.kind == "StatefulSet"} == {"mysql", "rabbitmq"}
    production = rendered["production"]
    assert {w.name for w in production.workloads()} == {
        "messaging-platform-api", "messaging-platform-outboxd", "messaging-platform-consumerd",
        "messaging-platform-migrate"}
    assert {o["metadata"]["name"] for o in production.kind("HorizontalPodAutoscaler", "ScaledObject")} == {
        "messaging-platform-api", "messaging-platform-outboxd", "messaging-platform-consumerd"}


# -- the checks themselves: each finds what is put in for it --------------------------------------


def container(objects, name):
    return next(w for w in objects.workloads() if w.name == name).containers[0]


def spec(objects, kind, name):
    return objects.get(kind, name)["spec"]


def config(objects, begin):
    return next(o for o in objects.kind("ConfigMap") if o["metadata"]["name"].startswith(begin))["data"]


API, OUTBOXD, CONSUMERD, WEBHOOKS = (f"messaging-platform-{n}" for n in ("api", "outboxd", "consumerd", "webhooks"))


def drop(objects, kind, name):
    objects.remove(objects.get(kind, name))


def rename_key(mapping, old, new):
    mapping[new] = mapping.pop(old)


# Each: what is changed in development-complete, and a word of the sentence that must come of it.
TAMPERED = {
    "setting": (lambda o: config(o, f"{API}-settings").update(GLOBAL_RATE_LIMIT="5"), "no setting GLOBAL_RATE_LIMIT"),
    "setting of another daemon": (lambda o: config(o, f"{CONSUMERD}-settings").update(OUTBOX_BATCH="5"),
                                  "msg-consumerd has no setting OUTBOX_BATCH"),
    "setting in env": (lambda o: container(o, OUTBOXD)["env"].append({"name": "LOGLEVEL", "value": "info"}),
                       "msg-outboxd has no setting LOGLEVEL"),
    "value": (lambda o: config(o, "messaging-platform-settings").update(DB_MAX_OPEN_CONNS="many"), "DB_MAX_OPEN_CONNS"),
    "required setting": (lambda o: container(o, API)["env"].pop(0), "DB_PASSWORD is required"),
    "mounted file": (lambda o: container(o, API)["env"][0].update(value="/run/secrets/elsewhere/DB_PASSWORD"),
                     "no file of a mounted Secret"),
    "secret's key": (lambda o: next(w for w in o.workloads() if w.name == API).pod["volumes"][0]["secret"]["items"][0]
                     .update(key="PASSWORD"), "no key PASSWORD"),
    "program": (lambda o: container(o, API).update(args=["msg-apid"]), "no program"),
    "verb": (lambda o: container(o, "messaging-platform-migrate").update(args=["msg-api", "upgrade"]), "no verb upgrade"),
    "migration's secrets": (lambda o: container(o, "messaging-platform-migrate")["env"].append(
        {"name": "RABBIT_URI", "value": "amqp://a:b@rabbitmq/"}), "with the broker's secret"),
    "loopback": (lambda o: config(o, f"{OUTBOXD}-settings").update(LISTEN_ADDR="127.0.0.1:8081"), "reached by nobody"),
    "default address": (lambda o: config(o, f"{OUTBOXD}-settings").pop("LISTEN_ADDR"), "reached by nobody"),
    "container's port": (lambda o: container(o, OUTBOXD)["ports"][0].update(containerPort=8080), "listens on 8081"),
    "daemon's port": (lambda o: config(o, f"{CONSUMERD}-settings").update(LISTEN_ADDR=":8092"), "listens on 8092"),
    "probe's path": (lambda o: container(o, API)["livenessProbe"]["httpGet"].update(path="/health"), "msg-api has no /health"),
    "readiness": (lambda o: container(o, API)["readinessProbe"]["httpGet"].update(path="/readyz"), "not /readyz?for=traffic"),
    "probe's port": (lambda o: container(o, API)["startupProbe"]["httpGet"].update(port=8090), "8090"),
    "no probe": (lambda o: container(o, CONSUMERD).pop("livenessProbe"), "no livenessProbe"),
    "workload's selector": (lambda o: spec(o, "Deployment", API)["selector"]["matchLabels"].update(tier="web"),
                            "does not match its own pods"),
    "service's selector": (lambda o: spec(o, "Service", API).update(selector={"app": "api"}), "Service messaging-platform-api: selects []"),
    "service's port": (lambda o: spec(o, "Service", API)["ports"][0].update(targetPort="web"), "has no port web"),
    "budget": (lambda o: drop(o, "PodDisruptionBudget", API), "no PodDisruptionBudget"),
    "monitor's port": (lambda o: spec(o, "ServiceMonitor", API)["endpoints"][0].update(port="metrics"), "has no port metrics"),
    "monitor's selector": (lambda o: spec(o, "ServiceMonitor", API)["selector"].update(matchLabels={"app": "x"}), "selects no Service"),
    "grace": (lambda o: config(o, "messaging-platform-settings").update(DRAIN_TIMEOUT_MS="60000"), "drains for 60 s"),
    "no delay": (lambda o: config(o, f"{API}-settings").pop("SHUTDOWN_DELAY_MS"), "still sends requests"),
    "rollout": (lambda o: spec(o, "Deployment", API)["strategy"]["rollingUpdate"].update(maxUnavailable=1), "maxUnavailable"),
    "root": (lambda o: spec(o, "Deployment", API)["template"]["spec"]["securityContext"].update(runAsNonRoot=False), "may run as root"),
    "writable": (lambda o: container(o, API)["securityContext"].update(readOnlyRootFilesystem=False), "can be written"),
    "token": (lambda o: spec(o, "Deployment", API)["template"]["spec"].pop("automountServiceAccountToken"), "automountServiceAccountToken"),
    "namespace": (lambda o: o.get("Service", API)["metadata"].update(namespace="default"), "not in distributed-messaging-platform"),
    "pod security": (lambda o: o.get("Namespace", NAMESPACE)["metadata"].pop("labels") and
                     o.get("Namespace", NAMESPACE)["metadata"].update(labels={}), "does not enforce"),
    "tag": (lambda o: container(o, OUTBOXD).update(image="distributed-messaging-platform:old"), "one release"),
    "replicas": (lambda o: spec(o, "Deployment", API).update(replicas=3), "sets its replicas too"),
    "metric": (lambda o: spec(o, "ScaledObject", OUTBOXD)["triggers"][0]["metadata"].update(valueLocation='msg_outbox_pending{lane="fast"}'),
               'no msg_outbox_pending{lane="fast"}'),
    "metric that may be absent": (lambda o: spec(o, "ScaledObject", CONSUMERD)["triggers"][0]["metadata"].update(
        valueLocation='msg_published_open{lane="fast"}'), 'no msg_published_open{lane="fast"}'),
    "metric of another daemon": (lambda o: spec(o, "ScaledObject", CONSUMERD)["triggers"][0]["metadata"].update(
        url=f"http://{OUTBOXD}.{NAMESPACE}.svc:8081/metrics"), 'no msg_published_open{lane="express"}'),
    "kind of trigger": (lambda o: spec(o, "ScaledObject", CONSUMERD)["triggers"][0].update(type="rabbitmq"),
                        "a trigger of an unknown type, rabbitmq"),
    "metric's address": (lambda o: spec(o, "ScaledObject", OUTBOXD)["triggers"][0]["metadata"].update(
        url=f"http://{OUTBOXD}.{NAMESPACE}.svc:8080/metrics"), "no Service and port"),
    "scaler's target": (lambda o: spec(o, "ScaledObject", OUTBOXD)["scaleTargetRef"].update(name="outboxd"), "no Deployment outboxd"),
    "database's name": (lambda o: container(o, "mysql")["env"][0].update(value="messages"), "MYSQL_DATABASE is not DB_NAME"),
    "policy": (lambda o: drop(o, "NetworkPolicy", "daemons-to-mysql"), "blocked: messaging-platform-api to mysql TCP 3306"),
    "policy's other end": (lambda o: drop(o, "NetworkPolicy", "mysql-from-daemons"), "blocked: messaging-platform-migrate to mysql TCP 3306"),
    "DNS": (lambda o: spec(o, "NetworkPolicy", "dns")["egress"][0]["ports"].pop(0), "to DNS UDP 53"),
    "collector": (lambda o: drop(o, "NetworkPolicy", "daemons-to-collector"), "to a pod in observability TCP 4318"),
    "collector's port": (lambda o: config(o, "messaging-platform-settings").update(
        OTEL_EXPORTER_OTLP_ENDPOINT="http://otel-collector.observability:14318"), "to a pod in observability TCP 14318"),
    "scraping": (lambda o: drop(o, "NetworkPolicy", "daemons-from-prometheus"), "a pod in monitoring to messaging-platform-outboxd TCP 8081"),
    "KEDA": (lambda o: drop(o, "NetworkPolicy", "consumerd-from-keda"), "a pod in keda to messaging-platform-consumerd TCP 8082"),
    "operators": (lambda o: spec(o, "NetworkPolicy", "consumerd-to-simulators")["egress"][0]["ports"][0].update(port=9002),
                  "to operator-a TCP 9001"),
    "endpoints": (lambda o: drop(o, "NetworkPolicy", "endpoints"), "blocked: messaging-platform-webhooks to 198.51.100.7 TCP 8443"),
    "endpoints' metadata": (lambda o: spec(o, "NetworkPolicy", "endpoints")["egress"][0]["to"][0]["ipBlock"].pop("except"),
                            "open: messaging-platform-webhooks to 168.63.129.16 TCP 80"),
    "endpoints' ports": (lambda o: spec(o, "NetworkPolicy", "endpoints")["egress"][0].pop("ports"),
                         "open: messaging-platform-webhooks to 198.51.100.7 TCP 25"),
    "receipts": (lambda o: drop(o, "NetworkPolicy", "operators-to-receipts"),
                 "blocked: a pod in ingress-nginx to messaging-platform-api TCP 8084"),
    "receipts' port": (lambda o: config(o, f"{API}-settings").update(RECEIPTS_LISTEN_ADDR=":8085"), "listens on 8080"),
    "webhooks without a database": (lambda o: spec(o, "NetworkPolicy", "daemons-to-mysql")["podSelector"]["matchExpressions"][0][
        "values"].remove(WEBHOOKS), "blocked: messaging-platform-webhooks to mysql TCP 3306"),
    "policy's port": (lambda o: spec(o, "NetworkPolicy", "clients-to-api")["ingress"][0]["ports"][0].update(port=80), "port 80 is of none"),
    "no default": (lambda o: drop(o, "NetworkPolicy", "default-deny"), "open: "),
    "clients": (lambda o: spec(o, "NetworkPolicy", "clients-to-api")["ingress"][0].pop("from"),
                "open: a pod in default to messaging-platform-api"),
    "too open": (lambda o: spec(o, "NetworkPolicy", "mysql-from-daemons")["ingress"][0].pop("from"), "open: a pod in default to mysql"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_tampered_manifest_is_found_out(rendered, what):
    objects = Objects(copy.deepcopy(list(rendered["development-complete"])))
    change, word = TAMPERED[what]
    change(objects)
    found = checks.problems(objects)
    assert any(word in text for text in found), found


WRONG_SHAPES = {
    "unknown field": (lambda o: rename_key(container(o, API), "readinessProbe", "readynessProbe"), "readynessProbe"),
    "type": (lambda o: container(o, API)["ports"][0].update(containerPort="http"), "containerPort"),
    "missing field": (lambda o: spec(o, "HorizontalPodAutoscaler", API).pop("maxReplicas"), "maxReplicas"),
    "unknown field of KEDA": (lambda o: spec(o, "ScaledObject", OUTBOXD).update(maxReplicas=4), "maxReplicas"),
    "type in KEDA": (lambda o: spec(o, "ScaledObject", OUTBOXD)["triggers"][0].update(type=1), "type"),
    "unknown field of the Prometheus operator": (
        lambda o: spec(o, "ServiceMonitor", API)["endpoints"][0].update(intervals="15s"), "intervals"),
    "type in the Prometheus operator": (lambda o: spec(o, "PrometheusRule", "messaging-platform").update(groups={}), "groups"),
    "unknown kind": (lambda o: o.get("Service", API).update(kind="Services"), "no schema for v1 Services"),
}


@schemas
def test_objects_of_a_wrong_shape_are_found_out(rendered):
    objects, wanted = [], []
    for change, word in WRONG_SHAPES.values():
        changed = Objects(copy.deepcopy(list(rendered["development-complete"])))
        change(changed)
        (odd,) = [c for c, o in zip(changed, rendered["development-complete"]) if c != o]
        objects.append(odd)
        wanted.append((f"{odd['kind']} {odd['metadata']['name']}", word))
    found = schema_problems(objects)
    for name, word in wanted:
        assert any(text.startswith(f"{name}:") and word in text for text in found), (name, word, found)


def test_production_reaches_only_what_it_names(rendered):
    objects = Objects(copy.deepcopy(list(rendered["production"])))
    spec(objects, "NetworkPolicy", "consumerd-to-operators")["egress"][0]["to"][0]["ipBlock"].pop("except")
    assert any("open: messaging-platform-consumerd to 169.254.169.254 TCP 443" in p for p in network_problems(objects))
    objects = Objects(copy.deepcopy(list(rendered["production"])))
    drop(objects, "NetworkPolicy", "daemons-to-broker")
    assert any("blocked: messaging-platform-outboxd to 10.20.30.40 TCP 5671" in p for p in network_problems(objects))
