"""A clean Debian 12 that boots with systemd in a container (systemd-nspawn) on this machine's network:
MariaDB and RabbitMQ of the tests are within its reach on loopback.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "system"))

from harness.authority import Authority  # noqa: E402, F401
from harness.client import Api  # noqa: E402
from harness.keys import KeyedApi, wait_known  # noqa: E402
from harness.stack import BUILD, REPOSITORY, Stack  # noqa: E402
from harness.wait import wait_until  # noqa: E402

MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
BASE = BUILD / "debian-12.tar"
DOCUMENT = REPOSITORY / "docs" / "systemd.md"
PACKAGES = ("messaging-platform-common", "messaging-platform-dashboards", "msg-api", "msg-consumerd",
            "msg-loadtest", "msg-outboxd", "operator-sim")
DAEMONS = {"api": "msg-api", "outboxd": "msg-outboxd", "consumerd": "msg-consumerd"}
ETC = "etc/messaging-platform"


def missing():
    """Why there can be no machine here, or None."""
    if os.geteuid() != 0:
        return "a machine needs root"
    tools = [t for t in ("mmdebstrap", "systemd-nspawn", "cpack") if not shutil.which(t)]
    return f"not installed (test/deps packages): {' '.join(tools)}" if tools else None


def checked(*command, timeout=300, **options):
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=timeout, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))}:\n{done.stdout[-4000:]}"
    return done.stdout


def make_packages(folder, release):
    """The packages of this build, with a Debian revision; {name: file}."""
    checked("cpack", "-G", "DEB", "-B", folder, "-D", f"CPACK_DEBIAN_PACKAGE_RELEASE={release}", cwd=BUILD)
    found = {path.name.partition("_")[0]: path for path in Path(folder).glob("*.deb")}
    assert set(found) == set(PACKAGES), sorted(found)
    return found


class Machine:
    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="msg-machine-"))
        self.root = self.folder / "root"
        self.console = self.folder / "console"
        self._process = self._leader = None

    def make(self):
        """From the base system, which is fetched once a build folder."""
        if not BASE.exists():
            fresh = BASE.with_suffix(".new")
            checked("mmdebstrap", "--variant=minbase", "--format=tar", "--include=systemd,systemd-sysv,dbus",
                    "bookworm", fresh, MIRROR, timeout=900)
            fresh.rename(BASE)
        self.root.mkdir(mode=0o755)
        checked("tar", "--extract", f"--file={BASE}", f"--directory={self.root}", "--numeric-owner")

    def boot(self):
        with open(self.console, "wb") as console:
            self._process = subprocess.Popen(
                ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot", f"--directory={self.root}"],
                stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT)
        self._leader = wait_until(self._find_leader, 30, self._what)
        wait_until(lambda: self.run("systemctl", "is-system-running").stdout.strip() in ("running", "degraded"),
                   60, self._what, pause=0.2)

    def _what(self):
        return "the machine boots: " + self.console.read_text(errors="replace")[-2000:]

    def _find_leader(self):
        assert self._process.poll() is None, self._what()
        pid = self._process.pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{child}/status").read_text()
                if next(line for line in status.splitlines() if line.startswith("NSpid")).split()[-1] == "1":
                    return child
        return None

    def run(self, *command, timeout=600, **environment):
        """A command inside; what subprocess.run returns, both outputs in one."""
        inside = ["nsenter", "--target", self._leader, "--mount", "--uts", "--ipc", "--pid", "--cgroup",
                  "--root", "--wd", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8",
                  "DEBIAN_FRONTEND=noninteractive", *(f"{k}={v}" for k, v in environment.items())]
        return subprocess.run([*inside, *map(str, command)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=timeout)

    def checked(self, *command, **options):
        done = self.run(*command, **options)
        assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.returncode}\n{done.stdout[-4000:]}"
        return done.stdout

    def shut(self):
        if self._process and self._process.poll() is None:
            self._process.terminate()  # an orderly shutdown
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self.folder)

    # -- packages ---------------------------------------------------------------------------------

    def install(self, packages):
        """As a user does with files; what they need comes from Debian."""
        target = self.root / "var/tmp/packages"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for path in packages.values():
            shutil.copy(path, target)
        inside = [f"/var/tmp/packages/{path.name}" for path in packages.values()]
        return self.checked("apt-get", "install", "-q", "-y", "--no-install-recommends", *inside)

    def files(self):
        """Every path, but for those where Debian keeps books and the machine lives."""
        found = set()
        for folder, folders, files in os.walk(self.root):
            inside = "/" + os.path.relpath(folder, self.root)
            folders[:] = [f for f in folders if os.path.join(inside, f) not in (
                "/dev", "/proc", "/run", "/sys", "/tmp", "/var/tmp", "/var/lib/apt", "/var/lib/dpkg",
                "/var/cache", "/var/log", "/var/lib/systemd")]
            found.update(os.path.join(inside, name) for name in (*folders, *files))
        return found

    # -- units ------------------------------------------------------------------------------------

    def show(self, unit, name):
        return self.checked("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def active(self, unit):
        return self.run("systemctl", "is-active", unit).stdout.strip()

    def journal(self, unit):
        return self.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}").stdout

    def drop_in(self, unit, text):
        folder = self.root / f"etc/systemd/system/{unit}.d"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "test.conf").write_text(text)
        self.checked("systemctl", "daemon-reload")

    def undrop(self, unit):
        shutil.rmtree(self.root / f"etc/systemd/system/{unit}.d", ignore_errors=True)
        self.checked("systemctl", "daemon-reload")


class Platform:
    """The packages on a machine, set up for the servers and ports of a stack."""

    def __init__(self, machine, stack):
        self.machine, self.stack = machine, stack
        port = lambda name: stack.url(name).rpartition(":")[2]  # noqa: E731
        self.operators = [port("consumerd-15"), port("consumerd-16")]
        self.consumers = [port("consumerd-17"), port("consumerd-18")]
        self.units = [f"{name}.service" for name in DAEMONS.values()] + [
            f"operator-sim@{p}.service" for p in self.operators]
        self.api = Api(stack.url("api-9"))

    def write(self, name, text):
        path = self.machine.root / ETC / name
        path.write_text(text)
        return path

    def configure(self, **more):
        values = self.stack.values
        common = {k: values[k] for k in ("DB_HOST", "DB_PORT", "DB_NAME", "DB_USER_NAME", "EXPRESS_QUEUE",
                                         "NORMAL_QUEUE", "RABBIT_MESSAGE_EXCHANGE")} | more
        self.write("platform.env", "".join(f"{k}={v}\n" for k, v in common.items()))
        operators = ",".join(f"operator{p}=http://127.0.0.1:{p}" for p in self.operators)
        for kind, name in DAEMONS.items():
            listen = self.stack.url(f"{kind}-9").removeprefix("http://")
            self.write(f"{name}.env", f"LISTEN_ADDR={listen}\nOPERATORS={operators}\n"
                                     "USER_RATE_LIMIT_RPS=0\n")
        for name, value in (("db_password", values["DB_PASSWORD"]), ("rabbit_uri", values["RABBIT_URI"])):
            self.write(f"credentials/{name}", value + "\n").chmod(0o600)

    def start(self):
        self.machine.checked("systemctl", "enable", "--now", "messaging-platform.target", *self.units)
        self.wait_ready()
        self.take_first_key()

    def take_first_key(self):
        """As docs/systemd.md has it: without a key nothing; with that of the installation everything."""
        assert self.api.get("/balance", user_id=1).status_code == 401
        self.machine.checked("dpkg-reconfigure", "msg-api")
        self.key = (self.machine.root / ETC / "admin_key").read_text().strip()
        self.api = KeyedApi(self.api.url, self.key)
        self.wait_ready()
        wait_known(self.api)

    def wait_ready(self):
        def ready():
            return all(self.machine.active(u) == "active" for u in self.units) and \
                self.api.get("/readyz").status_code == 200

        def what():
            return "ready: " + "\n".join(f"{u}: {self.machine.active(u)}\n{self.machine.journal(u)[-1500:]}"
                                         for u in self.units)

        wait_until(lambda: _answered(ready), 60, what, pause=0.2)

    def deliver(self):
        """One message to its end."""
        customer = self.api.funded(10)
        sent = self.api.sent(customer)
        assert set(self.api.wait_final(customer, sent["message_identifier"]).values()) == {"done"}


def _answered(condition):
    try:
        return condition()
    except OSError:  # requests' errors are such
        return False


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    return make_packages(tmp_path_factory.mktemp("packages"), 1)


@pytest.fixture(scope="module")
def machine():
    reason = missing()
    if reason:
        pytest.skip(reason)
    made = Machine()
    try:
        made.make()
        made.boot()
        made.checked("apt-get", "update", "-q")
        yield made
    finally:
        made.shut()


@pytest.fixture(scope="module")
def servers():
    stack = Stack("machine")
    try:
        yield stack.up("backends")
    finally:
        stack.purge()
