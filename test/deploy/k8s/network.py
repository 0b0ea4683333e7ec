"""Who has to talk to whom, and whether the NetworkPolicies let them."""

import ipaddress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from .manifests import NAME, NAMESPACE, NAMESPACE_LABEL, environment, is_ours

PRIVATE, PUBLIC, METADATA = "10.20.30.40", "198.51.100.7", "169.254.169.254"
WIRE_SERVER = "168.63.129.16"  # Azure's, at an address that looks public


@dataclass(frozen=True)
class Peer:
    """A pod of some namespace, or an address."""

    name: str
    namespace: str = ""
    labels: tuple = ()
    address: str = ""
    ports: tuple = field(default=(), compare=False)


def pod(workload):
    return Peer(workload.name, NAMESPACE, tuple(workload.labels.items()), ports=tuple(workload.ports().items()))


def member(cluster):
    """A pod of a RabbitmqCluster, as its operator makes them."""
    name = cluster["metadata"]["name"]
    return Peer(name, NAMESPACE, ((NAME, name),))


def foreign(namespace, **labels):
    return Peer(f"a pod in {namespace}", namespace, tuple(labels.items()))


def address(text):
    return Peer(text, address=text)


DNS = Peer("DNS", "kube-system", (("k8s-app", "kube-dns"),))


def selects(selector, labels):
    if not selector.get("matchLabels", {}).items() <= labels.items():
        return False
    for e in selector.get("matchExpressions", []):
        value = labels.get(e["key"])
        if e["operator"] == "In" and value not in e["values"]:
            return False
        if e["operator"] == "NotIn" and value in e["values"]:
            return False
        if e["operator"] == "Exists" and value is None:
            return False
        if e["operator"] == "DoesNotExist" and value is not None:
            return False
    return True


def matches(peer_rule, peer):
    if "ipBlock" in peer_rule:
        if not peer.address:
            return False
        at, block = ipaddress.ip_address(peer.address), peer_rule["ipBlock"]
        return at in ipaddress.ip_network(block["cidr"]) and not any(
            at in ipaddress.ip_network(e) for e in block.get("except", []))
    if peer.address:
        return False
    if "namespaceSelector" in peer_rule:
        if not selects(peer_rule["namespaceSelector"], {NAMESPACE_LABEL: peer.namespace}):
            return False
    elif peer.namespace != NAMESPACE:
        return False
    return selects(peer_rule.get("podSelector", {}), dict(peer.labels))


def allows(rule, side, peer, destination, port, protocol):
    if side in rule and not any(matches(r, peer) for r in rule[side]):
        return False
    if "ports" not in rule:
        return True
    names = dict(destination.ports)
    for p in rule["ports"]:
        first = names.get(p["port"], p["port"])
        if p.get("protocol", "TCP") == protocol and (first == port or "endPort" in p and first <= port <= p["endPort"]):
            return True
    return False


def allowed(objects, source, destination, port, protocol="TCP"):
    """As the cluster's network plugin decides: both ends have to let it through."""
    for kind, own, other, side in (("Egress", source, destination, "to"), ("Ingress", destination, source, "from")):
        if own.namespace != NAMESPACE:
            continue
        rules = [p["spec"] for p in objects.kind("NetworkPolicy")
                 if kind in p["spec"]["policyTypes"] and selects(p["spec"]["podSelector"], dict(own.labels))]
        if rules and not any(allows(rule, side, other, destination, port, protocol)
                             for spec in rules for rule in spec.get(kind.lower(), [])):
            return False
    return True


def destinations(objects, host, port, outside):
    """Where a host and port lead: pods behind a Service of ours, a pod elsewhere in the cluster, an address."""
    service, behind = objects.service_backends(host)
    if service:
        target = next((p["targetPort"] for p in service["spec"]["ports"] if p["port"] == port), None)
        return [(pod(w), w.port(target)) for w in behind]
    labels = host.removesuffix(".svc").split(".")
    if len(labels) == 2 and not host.endswith(".com"):
        return [(foreign(labels[1]), port)]
    return [(address(outside), port)]


DEFAULT_PORTS = {"http": 80, "https": 443, "amqp": 5672, "amqps": 5671}


def leads_to(objects, url, outside):
    parts = urlsplit(url)
    return destinations(objects, parts.hostname, parts.port or DEFAULT_PORTS[parts.scheme], outside)


def needed(objects):
    """(source, destination, port, protocol), from what settings, scalers and monitors say."""
    edges = []
    for w in objects.workloads():
        own = pod(w)
        edges += [(own, DNS, 53, "UDP"), (own, DNS, 53, "TCP")]
        for c in w.containers:
            if not is_ours(c):
                continue
            values = environment(objects, w, c).values
            ends = []
            for host in filter(None, values.get("DB_HOST", "").split(",")):
                ends += destinations(objects, host, int(values["DB_PORT"]), PRIVATE)
            if "RABBIT_URI" in values and w.kind != "Job":
                for uri in values["RABBIT_URI"].split(","):
                    ends += leads_to(objects, uri, PRIVATE)
            parts = values.get("CONSUMERD_PARTS", "lanes,webhooks").split(",") if "OPERATORS" in values else []
            if "lanes" in parts:
                for operator in values["OPERATORS"].split(","):
                    ends += leads_to(objects, operator.partition("=")[2], PUBLIC)
            if "webhooks" in parts:
                ends += [(address(PUBLIC), port) for port in (80, 443, 8443)]
            if values.get("OTEL_EXPORTER_OTLP_ENDPOINT") and w.kind != "Job":
                ends += leads_to(objects, values["OTEL_EXPORTER_OTLP_ENDPOINT"], PRIVATE)
            edges += [(own, to, port, "TCP") for to, port in ends]
    api = objects.selected({NAME: "messaging-platform-api"})
    edges += [(foreign("ingress-nginx"), pod(w), port, "TCP") for w in api for port in w.ports().values()]
    for cluster in objects.kind("RabbitmqCluster"):
        node = member(cluster)
        edges += [(pod(w), node, 5672, "TCP") for name in ("api", "outboxd", "consumerd")
                  for w in objects.selected({NAME: f"messaging-platform-{name}"})]
        edges += [(node, node, port, "TCP") for port in (4369, 25672)]
        edges += [(foreign("monitoring"), node, 15692, "TCP"), (node, DNS, 53, "UDP"), (node, address(PRIVATE), 443, "TCP")]
    for monitor in objects.kind("ServiceMonitor"):
        for w in [w for w in objects.workloads() if selects(monitor["spec"]["selector"], w.labels)]:
            edges += [(foreign("monitoring"), pod(w), w.port(e["port"]), "TCP")
                      for e in monitor["spec"]["endpoints"]]
    for scaled in objects.kind("ScaledObject"):
        for trigger in scaled["spec"]["triggers"]:
            edges += [(foreign("keda"), to, port, "TCP")
                      for to, port in leads_to(objects, trigger["metadata"]["url"], PRIVATE)]
    return edges


def forbidden(objects):
    """What must stay closed, whatever else is opened."""
    by_name = {w.name: w for w in objects.workloads()}
    api, outboxd, consumerd = (by_name[f"messaging-platform-{n}"] for n in ("api", "outboxd", "consumerd"))
    newcomer = Peer("a pod without a policy", NAMESPACE)
    edges = [(foreign("default"), newcomer, 80, "TCP"), (newcomer, address(PUBLIC), 443, "TCP"),
             (foreign("default"), pod(outboxd), 8081, "TCP"), (foreign("default"), pod(consumerd), 8082, "TCP"),
             (pod(consumerd), pod(api), 8080, "TCP"), (pod(api), pod(outboxd), 8081, "TCP"),
             (foreign("default"), pod(api), 8080, "TCP"), (address(PUBLIC), pod(api), 8080, "TCP"),
             (pod(outboxd), address(PUBLIC), 443, "TCP"), (pod(api), address(PUBLIC), 443, "TCP"),
             (pod(consumerd), address(METADATA), 80, "TCP"), (pod(consumerd), address(METADATA), 443, "TCP"),
             (pod(consumerd), address(PUBLIC), 25, "TCP"), (pod(api), foreign("default"), 80, "TCP"),
             (pod(consumerd), address(PRIVATE), 443, "TCP"), (pod(consumerd), address(WIRE_SERVER), 80, "TCP"),
             (foreign("default"), pod(api), 8084, "TCP")]
    for cluster in objects.kind("RabbitmqCluster"):
        node = member(cluster)
        edges += [(foreign("default"), node, 5672, "TCP"), (newcomer, node, 5672, "TCP"), (pod(api), node, 25672, "TCP"),
                  (pod(api), node, 15672, "TCP"), (node, address(PUBLIC), 80, "TCP"), (node, pod(api), 8080, "TCP")]
    if "messaging-platform-webhooks" in by_name:
        webhooks = pod(by_name["messaging-platform-webhooks"])
        edges += [(webhooks, address(METADATA), 80, "TCP"), (webhooks, address(PRIVATE), 443, "TCP"),
                  (webhooks, address(WIRE_SERVER), 80, "TCP"), (webhooks, address(PUBLIC), 25, "TCP"),
                  (webhooks, pod(api), 8080, "TCP"), (foreign("default"), webhooks, 8082, "TCP"),
                  (pod(consumerd), address(PUBLIC), 8443, "TCP")]
        edges += [(webhooks, pod(by_name[name]), port, "TCP") for name, port in (("rabbitmq", 5672), ("operator-a", 9001))
                  if name in by_name]
    if "mysql" in by_name:
        mysql, rabbitmq, operator = by_name["mysql"], by_name["rabbitmq"], by_name["operator-a"]
        edges += [(foreign("default"), pod(mysql), 3306, "TCP"), (foreign("default"), pod(rabbitmq), 5672, "TCP"),
                  (foreign("keda"), pod(mysql), 3306, "TCP"), (foreign("keda"), pod(rabbitmq), 5672, "TCP"),
                  (pod(mysql), address(PUBLIC), 443, "TCP"),
                  (pod(operator), pod(mysql), 3306, "TCP"), (pod(api), pod(operator), 9001, "TCP"),
                  (pod(consumerd), pod(rabbitmq), 15672, "TCP"), (newcomer, pod(mysql), 3306, "TCP")]
    return edges


def describe(edge):
    source, destination, port, protocol = edge
    return f"{source.name} to {destination.name} {protocol} {port}"


def network_problems(objects):
    problems = [f"blocked: {describe(e)}" for e in needed(objects) if e[2] is None or not allowed(objects, *e)]
    problems += [f"open: {describe(e)}" for e in forbidden(objects) if allowed(objects, *e)]
    for policy in objects.kind("NetworkPolicy"):
        for direction in ("ingress", "egress"):
            if direction in policy["spec"] and direction.capitalize() not in policy["spec"]["policyTypes"]:
                problems.append(f"NetworkPolicy {policy['metadata']['name']}: {direction} rules of no type")
            for rule in policy["spec"].get(direction, []):
                if direction == "ingress":
                    problems += dead_ports(objects, policy, rule)
    return sorted(set(problems))


def dead_ports(objects, policy, rule):
    """Ports that none of the pods of a policy has: a renamed port would be opened for nothing."""
    behind = [w for w in objects.workloads() if selects(policy["spec"]["podSelector"], w.labels)]
    return [f"NetworkPolicy {policy['metadata']['name']}: port {p['port']} is of none of its pods"
            for p in rule.get("ports", []) if behind and not any(w.port(p["port"]) for w in behind)]
