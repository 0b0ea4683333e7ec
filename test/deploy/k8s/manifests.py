"""Rendered Kubernetes objects, and the programs of this repository as manifests see them."""

import base64
import functools
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[3]
BUILD = Path(os.environ.get("BUILD_DIR") or REPOSITORY / "build").resolve()
NAMESPACE = "distributed-messaging-platform"
IMAGE = "distributed-messaging-platform"
SECRET = "messaging-platform-secrets"
NAME = "app.kubernetes.io/name"
NAMESPACE_LABEL = "kubernetes.io/metadata.name"


# -- rendering ------------------------------------------------------------------------------------


def render(folder):
    """The objects that `kubectl apply -k` would send."""
    command = (["kubectl", "kustomize"] if shutil.which("kubectl") else ["kustomize", "build"])
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)} {folder}: {done.stderr}")
    if done.stderr.strip():
        raise AssertionError(f"{folder}: kustomize warns: {done.stderr}")
    objects = Objects(yaml.safe_load_all(done.stdout))
    for secret in objects.kind("Secret"):  # folded when long, which the API takes and the schema's pattern does not
        secret["data"] = {k: "".join(v.split()) for k, v in secret["data"].items()}
    return objects


class Objects(list):
    def kind(self, *kinds):
        return [o for o in self if o["kind"] in kinds]

    def get(self, kind, name):
        return next((o for o in self.kind(kind) if o["metadata"]["name"] == name), None)

    def workloads(self):
        return [Workload(o) for o in self.kind("Deployment", "StatefulSet", "Job")]

    def selected(self, labels):
        return [w for w in self.workloads() if labels.items() <= w.labels.items()]

    def service_backends(self, host):
        """Workloads behind a Service of this namespace, by any of the names it has in the cluster."""
        name, _, domain = host.partition(".")
        if domain not in ("", NAMESPACE, f"{NAMESPACE}.svc", f"{NAMESPACE}.svc.cluster.local"):
            return None, []
        service = self.get("Service", name)
        return service, self.selected(service["spec"]["selector"]) if service else []


def where(o):
    return f"{o['kind']} {o['metadata']['name']}"


class Workload:
    def __init__(self, o):
        self.object, self.kind, self.name = o, o["kind"], o["metadata"]["name"]
        self.labels = o["spec"]["template"]["metadata"]["labels"]
        self.pod = o["spec"]["template"]["spec"]
        self.containers = self.pod["containers"] + self.pod.get("initContainers", [])

    def __str__(self):
        return where(self.object)

    def ports(self):
        return {p["name"]: p["containerPort"] for c in self.containers for p in c.get("ports", [])}

    def port(self, number_or_name):
        """A container's port by name or number; None when there is none."""
        ports = self.ports()
        if number_or_name in ports.values():
            return number_or_name
        return ports.get(number_or_name)


def secret_texts(secret):
    """A Secret's values, from stringData or data."""
    values = dict(secret.get("stringData", {}))
    values.update((k, base64.b64decode(v).decode()) for k, v in secret.get("data", {}).items())
    return values


@functools.cache
def secret_template():
    return yaml.safe_load((REPOSITORY / "k8s" / "secret.yaml.template").read_text())


def secrets_of(objects):
    """By name: those rendered, and the one that is made of the template."""
    uri = "amqps://user:x@broker.example.com:5671/"
    known = {SECRET: {key: uri if key.endswith("_RABBIT_URI") else "x" for key in secret_template()["stringData"]}}
    known[SECRET]["API_ADMIN_KEY"] = "msg_test_000000000000000000000000000000000_16p4Y1"
    known.update((s["metadata"]["name"], secret_texts(s)) for s in objects.kind("Secret"))
    return known


@dataclass
class Environment:
    values: dict  # as the process sees it, but for paths of mounted secrets
    problems: list


def environment(objects, workload, container):
    """What a container's process gets, with NAME_FILE of mounted secrets turned into NAME."""
    values, problems = {}, []
    secrets = secrets_of(objects)
    mounts = {m["mountPath"]: m["name"] for m in container.get("volumeMounts", [])}
    volumes = {v["name"]: v for v in workload.pod.get("volumes", [])}
    for source in container.get("envFrom", []):
        config = objects.get("ConfigMap", source["configMapRef"]["name"])
        if config is None:
            problems.append(f"no ConfigMap {source['configMapRef']['name']}")
        else:
            values.update(config["data"])
    for variable in container.get("env", []):
        name = variable["name"]
        if "value" in variable:
            values[name] = variable["value"]
            continue
        ref = variable["valueFrom"]["secretKeyRef"]
        if ref["key"] not in secrets.get(ref["name"], {}):
            problems.append(f"{name}: no key {ref['key']} in a Secret {ref['name']}")
        values[name] = secrets.get(ref["name"], {}).get(ref["key"], "")
    for name in [n for n in values if n.endswith("_FILE")]:
        folder, _, file = values[name].rpartition("/")
        secret = volumes.get(mounts.get(folder), {}).get("secret", {})
        keys = {i["path"]: i["key"] for i in secret.get("items", [])}
        value = secrets.get(secret.get("secretName"), {}).get(keys.get(file))
        if value is None:
            problems.append(f"{name}: no file of a mounted Secret at {values[name]}")
        else:
            values[name.removesuffix("_FILE")] = value
        del values[name]
    return Environment(values, problems)


# -- programs -------------------------------------------------------------------------------------


@dataclass
class Setting:
    default: str
    kind: str


class Program:
    """A built program, asked about itself."""

    FOLDERS = {"msg-api": "api", "msg-outboxd": "outboxd", "msg-consumerd": "consumerd",
               "operator-sim": "operator-sim"}

    def __init__(self, name):
        self.name, self.path = name, BUILD / self.FOLDERS[name] / name

    def _say(self, option):
        return subprocess.run([self.path, option], check=True, capture_output=True, text=True, env={}).stdout

    @functools.cached_property
    def settings(self):
        rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|", self._say("--settings-markdown"), re.MULTILINE)
        return {name: Setting(default.strip("`"), kind) for name, default, kind in rows}

    @functools.cached_property
    def verbs(self):
        return set(re.findall(rf"^\s*{self.name} ([a-z]+) ", self._say("--help"), re.MULTILINE))

    def default_port(self):
        return int(self.settings["LISTEN_ADDR"].default.rpartition(":")[2])

    def check(self, values):
        """What --check has against these settings; empty when nothing."""
        done = subprocess.run([self.path, "--check"], capture_output=True, text=True, env=values)
        return "" if done.returncode == 0 else (done.stdout + done.stderr).strip() or f"exit {done.returncode}"

    @functools.cached_property
    def answers(self):
        """Status and text by path, from the program itself, started once with nothing behind it."""
        return Answers(self)


class Answers:
    DEADLINE = 20

    def __init__(self, program):
        self.program, self.known = program, {}

    def __getitem__(self, path):
        if path not in self.known:
            self._ask([path])
        return self.known[path]

    def status(self, path):
        return self[path][0]

    def _ask(self, paths):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        settings = {"LISTEN_ADDR": f"127.0.0.1:{port}", "DB_HOST": "127.0.0.1", "DB_PORT": "1", "DB_PASSWORD": "x",
                    "RABBIT_URI": "amqp://x:x@127.0.0.1:1/", "DRAIN_TIMEOUT_MS": "1000"}
        env = {k: v for k, v in settings.items() if k in self.program.settings}
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen([self.program.path], env=env, stdout=log, stderr=log)
            try:
                deadline = time.monotonic() + self.DEADLINE
                while True:
                    try:
                        self._get(port, "/healthz")
                        break
                    except OSError:
                        if process.poll() is not None or time.monotonic() > deadline:
                            log.seek(0)
                            raise AssertionError(f"{self.program.name} does not answer: {log.read()!r}")
                        time.sleep(0.05)
                for path in paths:
                    self.known[path] = self._get(port, path)
            finally:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    @staticmethod
    def _get(port, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read().decode()


@functools.cache
def program(name):
    return Program(name)


def is_ours(container):
    return container["image"].rpartition(":")[0].rpartition("/")[2] == IMAGE


# -- schemas --------------------------------------------------------------------------------------

SCHEMAS = Path(__file__).resolve().parent


def schema_problems(objects):
    done = subprocess.run(["node", str(SCHEMAS / "validate.mjs")], input=json.dumps(objects), capture_output=True,
                          text=True)
    if done.returncode:
        raise AssertionError(f"validate.mjs: {done.stderr}")
    problems = []
    for line in done.stdout.splitlines():
        index, _, text = line.partition(" ")
        problems.append(f"{where(objects[int(index)])}: {text}" if int(index) >= 0 else text)
    return problems
