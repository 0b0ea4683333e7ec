"""What has to be true of rendered manifests. Each check returns what is wrong, a sentence each."""

import re
from urllib.parse import urlsplit

from .manifests import NAME, NAMESPACE, REPOSITORY, Program, environment, is_ours, program, secrets_of, where
from .network import network_problems, selects

METRICS_PAGE = REPOSITORY / "docs" / "metrics.md"
CLUSTER_WIDE = {"Namespace"}
FALLBACK_DRAIN_MS = 20000  # of programs that do not say it


def ours(objects):
    """Containers that run programs of this repository, with the program."""
    for w in objects.workloads():
        for c in w.containers:
            if is_ours(c):
                name = (c.get("args") or [""])[0]
                yield w, c, program(name) if name in Program.FOLDERS else None


def all_settings(objects):
    """Those of all programs in one; the ones that matter here are the same in each."""
    settings = {}
    for w, c, _ in ours(objects):
        settings.update(environment(objects, w, c).values)
    return settings


def programs_and_settings(objects):
    """Programs, verbs and settings exist, and the program itself finds nothing wrong with their values."""
    problems = []
    for w, c, p in ours(objects):
        if p is None:
            problems.append(f"{w}: no program {c.get('args')}")
            continue
        if "command" in c:
            problems.append(f"{w}: command replaces the image's entry point")
        verbs = c["args"][1:2]
        if verbs and verbs[0] not in p.verbs:
            problems.append(f"{w}: {p.name} has no verb {verbs[0]}")
        found = environment(objects, w, c)
        problems += [f"{w}: {text}" for text in found.problems]
        problems += [f"{w}: {p.name} has no setting {n}" for n in found.values if n not in p.settings]
        # A verb of msg-api has nothing to do with the broker, and no secret that it does not need.
        verb_alone = verbs and p.name == "msg-api"
        if verb_alone and "RABBIT_URI" in found.values:
            problems.append(f"{w}: a migration with the broker's secret")
        complaint = p.check(found.values | ({"RABBIT_URI": "amqp://none/"} if verb_alone else {}))
        if complaint:
            problems.append(f"{w}: {complaint}")
    for name, configs in own_configs(objects).items():
        if not configs:
            problems.append(f"ConfigMap {name}: nobody reads it")
    return problems


def own_configs(objects):
    """Which workloads read each ConfigMap."""
    readers = {o["metadata"]["name"]: [] for o in objects.kind("ConfigMap")}
    for w in objects.workloads():
        names = [s["configMapRef"]["name"] for c in w.containers for s in c.get("envFrom", []) if "configMapRef" in s]
        names += [v["configMap"]["name"] for v in w.pod.get("volumes", []) if "configMap" in v]
        for name in names:
            readers.setdefault(name, []).append(w)
    return readers


def references(objects):
    """Secrets and their keys, ConfigMaps of volumes, claims and mounts."""
    problems, secrets = [], secrets_of(objects)
    configs = {o["metadata"]["name"]: o for o in objects.kind("ConfigMap")}
    for w in objects.workloads():
        volumes = {v["name"]: v for v in w.pod.get("volumes", [])}
        claims = {t["metadata"]["name"] for t in w.object["spec"].get("volumeClaimTemplates", [])}
        for v in volumes.values():
            if "secret" in v:
                have = secrets.get(v["secret"]["secretName"], {})
                problems += [f"{w}: no key {i['key']} in Secret {v['secret']['secretName']}"
                             for i in v["secret"]["items"] if i["key"] not in have]
            if "configMap" in v and v["configMap"]["name"] not in configs:
                problems.append(f"{w}: no ConfigMap {v['configMap']['name']}")
        for c in w.containers:
            problems += environment(objects, w, c).problems
            for m in c.get("volumeMounts", []):
                if m["name"] not in volumes and m["name"] not in claims:
                    problems.append(f"{w}: mounts {m['name']}, which is no volume")
                config = volumes.get(m["name"], {}).get("configMap")
                if config and m.get("subPath") not in configs.get(config["name"], {"data": {}})["data"]:
                    problems.append(f"{w}: no {m.get('subPath')} in ConfigMap {config['name']}")
    return problems


def ports_and_probes(objects):
    """The daemon listens where the manifest says, and has the paths that are asked."""
    problems = []
    for w in objects.workloads():
        for c in w.containers:
            for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
                if kind not in c:
                    if w.kind != "Job":
                        problems.append(f"{w}: no {kind}")
                    continue
                probe = c[kind].get("httpGet") or c[kind].get("tcpSocket")
                if probe and w.port(probe["port"]) is None:
                    problems.append(f"{w}: {kind} asks a port {probe['port']}, which is none of its own")
    for w, c, p in ours(objects):
        if p is None or w.kind == "Job":
            continue
        listen = environment(objects, w, c).values.get("LISTEN_ADDR") or p.settings["LISTEN_ADDR"].default
        host, _, port = listen.rpartition(":")
        port = int(port)
        if host:
            problems.append(f"{w}: {p.name} on {listen} is reached by nobody outside of its pod")
        listens = {"http": port}
        receipts = environment(objects, w, c).values.get("RECEIPTS_LISTEN_ADDR")
        if receipts:
            listens["receipts"] = int(receipts.rpartition(":")[2])
        if w.ports() != listens:
            problems.append(f"{w}: {p.name} listens on {port}, the manifest has {w.ports()}")
        if port != p.default_port():
            problems.append(f"{w}: port {port} is not {p.name}'s usual {p.default_port()}")
        wanted = {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz?for=traffic"}
        for kind, path in wanted.items():
            probe = c.get(kind, {}).get("httpGet", {})
            if probe.get("path") != path:
                problems.append(f"{w}: {kind} asks {probe.get('path')}, not {path}")
            if "path" in probe and p.answers.status(probe["path"]) in (404, 405):
                problems.append(f"{w}: {p.name} has no {probe['path']}")
    return problems


def selectors(objects):
    """Whatever selects finds what it means."""
    problems = []
    for w in objects.workloads():
        selector = w.object["spec"].get("selector")
        if selector and not selects(selector, w.labels):
            problems.append(f"{w}: its selector does not match its own pods")
        for spread in w.pod.get("topologySpreadConstraints", []):
            if not selects(spread["labelSelector"], w.labels):
                problems.append(f"{w}: spreads other pods than its own")
        if w.kind == "StatefulSet" and not objects.get("Service", w.object["spec"]["serviceName"]):
            problems.append(f"{w}: no Service {w.object['spec']['serviceName']}")
    for o in objects.kind("Service"):
        behind = objects.selected(o["spec"]["selector"])
        if len(behind) != 1:
            problems.append(f"{where(o)}: selects {[str(w) for w in behind]}")
        problems += [f"{where(o)}: {w} has no port {port['targetPort']}" for w in behind for port in o["spec"]["ports"]
                     if w.port(port["targetPort"]) is None]
    for o in objects.kind("PodDisruptionBudget"):
        if len([w for w in objects.workloads() if selects(o["spec"]["selector"], w.labels)]) != 1:
            problems.append(f"{where(o)}: does not select one workload")
    for o in objects.kind("ServiceMonitor"):
        services = [s for s in objects.kind("Service") if selects(o["spec"]["selector"], s["metadata"]["labels"])]
        if not services and o["metadata"]["name"] != "rabbitmq":  # a broker may be elsewhere
            problems.append(f"{where(o)}: selects no Service")
        problems += [f"{where(o)}: {where(s)} has no port {e['port']}" for s in services for e in o["spec"]["endpoints"]
                     if e["port"] not in [port["name"] for port in s["spec"]["ports"]]]
    for o in objects.kind("HorizontalPodAutoscaler", "ScaledObject"):
        if not objects.get("Deployment", o["spec"]["scaleTargetRef"]["name"]):
            problems.append(f"{where(o)}: no Deployment {o['spec']['scaleTargetRef']['name']}")
    for w in objects.workloads():
        if w.kind == "Deployment" and [x for x in objects.selected(w.object["spec"]["selector"]["matchLabels"])
                                       if x.name != w.name]:
            problems.append(f"{w}: selects pods of another workload")
    return problems


def graceful_end(objects):
    """The kubelet waits longer than the daemon drains, and no rollout takes a replica away before its successor."""
    problems = []
    for w, c, p in ours(objects):
        if p is None or w.kind == "Job":
            continue
        values = environment(objects, w, c).values
        drain = int(values.get("DRAIN_TIMEOUT_MS", FALLBACK_DRAIN_MS)) / 1000
        stop = int(values.get("SHUTDOWN_DELAY_MS", 0)) / 1000
        grace = w.pod.get("terminationGracePeriodSeconds", 30)
        if grace < drain + stop + 10:
            problems.append(f"{w}: is killed after {grace} s, but drains for {drain:g} s after {stop:g} s")
        if p.name == "msg-api" and not stop:
            problems.append(f"{w}: stops while the Service still sends requests")
        if p.name.startswith("msg-"):
            if w.object["spec"]["strategy"].get("rollingUpdate", {}).get("maxUnavailable") != 0:
                problems.append(f"{w}: a rollout may take replicas away (maxUnavailable)")
            if not any(selects(o["spec"]["selector"], w.labels) for o in objects.kind("PodDisruptionBudget")):
                problems.append(f"{w}: no PodDisruptionBudget")
            if not w.pod.get("topologySpreadConstraints"):
                problems.append(f"{w}: replicas are not spread")
    return problems


def restricted(objects):
    """The restricted Pod Security Standard, and beyond it a root that cannot be written, no token, no links."""
    problems = []
    for o in objects:
        if o["kind"] not in CLUSTER_WIDE and o["metadata"].get("namespace") != NAMESPACE:
            problems.append(f"{where(o)}: not in {NAMESPACE}")
    space = objects.get("Namespace", NAMESPACE)
    if not space or space["metadata"]["labels"].get("pod-security.kubernetes.io/enforce") != "restricted":
        problems.append("Namespace: does not enforce restricted pod security")
    for w in objects.workloads():
        context = w.pod.get("securityContext", {})
        if not context.get("runAsNonRoot") or not context.get("runAsUser"):
            problems.append(f"{w}: may run as root")
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            problems.append(f"{w}: no seccomp profile")
        for name in ("automountServiceAccountToken", "enableServiceLinks"):
            if w.pod.get(name) is not False:
                problems.append(f"{w}: {name} is not off")
        if w.pod.get("hostNetwork") or w.pod.get("hostPID") or w.pod.get("hostIPC"):
            problems.append(f"{w}: uses the host's namespaces")
        allowed_volumes = {"configMap", "emptyDir", "secret", "persistentVolumeClaim", "projected", "downwardAPI"}
        problems += [f"{w}: volume {v['name']} is of no harmless kind" for v in w.pod.get("volumes", [])
                     if not allowed_volumes & v.keys()]
        for c in w.containers:
            context = c.get("securityContext", {})
            if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
                problems.append(f"{w}: privileges may grow")
            if context.get("readOnlyRootFilesystem") is not True:
                problems.append(f"{w}: its root can be written")
            if context.get("capabilities", {}) != {"drop": ["ALL"]}:
                problems.append(f"{w}: keeps capabilities")
            if any("hostPort" in port for port in c.get("ports", [])):
                problems.append(f"{w}: takes a port of the host")
            resources = c.get("resources", {})
            if not {"cpu", "memory"} <= resources.get("requests", {}).keys() or "memory" not in resources.get("limits", {}):
                problems.append(f"{w}: no resources")
            if is_ours(c) and w.pod["securityContext"].get("runAsUser") != 65532:
                problems.append(f"{w}: not the image's user")
    return problems


def images(objects):
    """Every image has a tag, and all of ours have the same."""
    problems = [f"{w}: {c['image']} has no tag" for w in objects.workloads() for c in w.containers
                if ":" not in c["image"].rpartition("/")[2]]
    tags = {c["image"] for w in objects.workloads() for c in w.containers if is_ours(c)}
    if len(tags) != 1:
        problems.append(f"one release, but images {sorted(tags)}")
    problems += [f"{w}: {c['image']} would be pulled even when it is on the node" for w in objects.workloads()
                 for c in w.containers if c.get("imagePullPolicy") != "IfNotPresent"]
    return problems


def scalers(objects):
    """Scalers look at metrics that exist, and nothing else sets the number of replicas."""
    problems = []
    for o in objects.kind("HorizontalPodAutoscaler", "ScaledObject"):
        spec = o["spec"]
        target = objects.get("Deployment", spec["scaleTargetRef"]["name"])
        if target and "replicas" in target["spec"]:
            problems.append(f"{where(o)}: the Deployment sets its replicas too")
        low = spec.get("minReplicas", spec.get("minReplicaCount", 0))
        high = spec.get("maxReplicas", spec.get("maxReplicaCount", 0))
        if not 1 <= low < high:
            problems.append(f"{where(o)}: from {low} to {high} replicas")
        for trigger in spec.get("triggers", []):
            problems += [f"{where(o)}: {text}" for text in trigger_problems(objects, trigger)]
    scaled = {o["spec"]["scaleTargetRef"]["name"] for o in objects.kind("HorizontalPodAutoscaler", "ScaledObject")}
    problems += [f"{w}: no replicas" for w in objects.workloads() if w.kind == "Deployment"
                 and w.name not in scaled and "replicas" not in w.object["spec"]]
    return problems


def trigger_problems(objects, trigger):
    if trigger["type"] != "metrics-api":
        yield f"a trigger of an unknown type, {trigger['type']}"
        return
    data = trigger["metadata"]
    url = urlsplit(data["url"])
    service, behind = objects.service_backends(url.hostname)
    if "." not in url.hostname or not behind or url.port not in [p["port"] for p in service["spec"]["ports"]]:
        yield f"no Service and port at {data['url']}"
        return
    status, text = program(behind[0].containers[0]["args"][0]).answers[url.path]
    if status != 200 or not has_metric(text, data["valueLocation"]):
        yield f"no {data['valueLocation']} at {data['url']}"


def has_metric(text, wanted):
    """A sample; of a gauge that is absent without a database, its family there and its labels on the page of metrics."""
    if re.search(rf"^{re.escape(wanted)} ", text, re.MULTILINE):
        return True
    family, _, labels = wanted.rstrip("}").partition("{")
    row = re.search(rf"^\| `{family}` \|.*\bAbsent\b.*$", METRICS_PAGE.read_text(), re.MULTILINE)
    if not row or f"\n# TYPE {family} gauge\n" not in text or f"\n{family}{{" in text:
        return False
    label, _, value = labels.partition("=")
    documented = re.search(rf"`{label}` \(([^)]*)\)", row[0])
    return bool(documented) and value.strip('"') in documented[1].split()


def database_and_broker(objects):
    """The servers are set up with the names that the daemons use."""
    problems = []
    settings = all_settings(objects)
    for w in objects.selected({NAME: "mysql"}):
        values = environment(objects, w, w.containers[0]).values
        for theirs, mine in (("MYSQL_DATABASE", "DB_NAME"), ("MYSQL_USER", "DB_USER_NAME"),
                             ("MYSQL_PASSWORD", "DB_PASSWORD")):
            if values.get(theirs) != settings.get(mine):
                problems.append(f"{w}: {theirs} is not {mine}")
    for w in objects.selected({NAME: "rabbitmq"}):
        values = environment(objects, w, w.containers[0]).values
        uri = urlsplit(settings["RABBIT_URI"])
        if (values["RABBITMQ_DEFAULT_USER"], values["RABBITMQ_DEFAULT_PASS"]) != (uri.username, uri.password):
            problems.append(f"{w}: its user is not that of RABBIT_URI")
    return problems


ALL = [programs_and_settings, references, ports_and_probes, selectors, graceful_end, restricted, images, scalers,
       database_and_broker, network_problems]


def problems(objects):
    return [f"{check.__name__}: {text}" for check in ALL for text in check(objects)]
