"""What the tests of images and of the Compose file have in common.

The commands are the environment's: CONTAINER (docker), CONTAINER_BUILD (docker build) and COMPOSE (docker
compose), each of which may hold options.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("BUILD_DIR") or REPOSITORY / "build").resolve()
COMPOSE_FILE = REPOSITORY / "compose" / "compose.yaml"
PROGRAMS = {"msg-api": "api", "msg-outboxd": "outboxd", "msg-consumerd": "consumerd",
            "operator-sim": "operator-sim", "msg-loadtest": "test/loadtest"}
PORTS = {"msg-api": 8080, "msg-outboxd": 8081, "msg-consumerd": 8082, "operator-sim": 9001}
DAEMON_SERVICES = {"msg-api": "msg-api", "msg-outboxd": "msg-outboxd", "msg-consumerd": "msg-consumerd",
                   "operator-sim-a": "operator-sim", "operator-sim-b": "operator-sim"}

sys.path.append(str(REPOSITORY / "test" / "system"))  # its harness


def command(name, default):
    return shlex.split(os.environ.get(name) or default)


CONTAINER = command("CONTAINER", "docker")
COMPOSE = command("COMPOSE", shlex.join([*CONTAINER, "compose"]))


def image(program, tag=None):
    """Of one program, or of all of them for None."""
    name = f"distributed-messaging-platform/{program}" if program else "distributed-messaging-platform"
    return f"{name}:{tag or os.environ.get('IMAGE_TAG') or 'latest'}"


def container(*words, check=True, timeout=120):
    """Standard output of a command of the container engine; with check=False the finished process."""
    done = subprocess.run([*CONTAINER, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=timeout)
    if not check:
        return done
    assert done.returncode == 0, f"{' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def inspect(*words):
    return json.loads(container(*words, "inspect", "--format", "{{json .}}"))


def binary(program):
    return BUILD / PROGRAMS[program] / program


def settings(program):
    """{name: default} as the program itself lists them."""
    text = subprocess.run([binary(program), "--settings-markdown"], check=True, capture_output=True, text=True).stdout
    return {name: "" if default in ("empty", "required") else default.strip("`")
            for name, default in re.findall(r"^\| `(\w+)` \| ([^|]*?) \|", text, re.MULTILINE)}


VARIABLE = re.compile(r"\$(?:\$|\{(\w+)(?::-([^}]*))?\})")


def interpolated(value, environment):
    """As Compose does it, of what the file uses: ${NAME:-default} and $$."""
    if isinstance(value, dict):
        return {k: interpolated(v, environment) for k, v in value.items()}
    if isinstance(value, list):
        return [interpolated(v, environment) for v in value]
    if not isinstance(value, str):
        return value
    return VARIABLE.sub(lambda m: (environment.get(m[1]) or m[2] or "") if m[1] else "$", value)


def compose_file(environment=None):
    """The Compose file with its merges and, for a given environment, its variables resolved."""
    document = yaml.safe_load(COMPOSE_FILE.read_text())
    return document if environment is None else interpolated(document, environment)


def environment_of(service, environment):
    """What a container of an interpolated service gets: names without a value are passed on where set."""
    given = {k: environment.get(k) if v is None else str(v) for k, v in service.get("environment", {}).items()}
    return {k: v for k, v in given.items() if v is not None}
