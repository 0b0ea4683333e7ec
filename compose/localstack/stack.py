"""The verbs of compose/local on a whole stack."""

import contextlib
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import time

from .config import (BACKENDS, DAEMONS, DB_USER_NAME, OPERATORS, RABBIT_PASSWORD, RABBIT_USER,
                     StackError, split_name)
from .process import wait_until
from .services import (binary, daemon_environment, delete_broker_objects, known_settings,
                       make_service, run_sql)


class Stack:
    def __init__(self, config):
        self.config = config

    def service(self, name):
        return make_service(self.config, name)

    # -- which services ---------------------------------------------------------------------------

    def members(self):
        """Names that belong to the stack as configured, in the order they are started."""
        names = [] if self.config.backends else list(BACKENDS)
        names += OPERATORS
        for kind in DAEMONS:
            names += [f"{kind}-{i}" for i in range(1, self.config.replicas(kind) + 1)]
        return names

    def recorded(self):
        """Members and whatever else was started by hand, e.g. a third api."""
        names = self.members()
        run = self.config.state_dir / "run"
        extra = sorted(f.stem for f in run.glob("*.json")) if run.is_dir() else []
        return names + [n for n in extra if n not in names and n != "epmd"]

    def resolve(self, words):
        """Names, kinds ('api': all of them) or 'daemons', 'operators', 'backends', 'all'."""
        groups = {"all": self.recorded, "backends": lambda: BACKENDS, "operators": lambda: OPERATORS,
                  "daemons": lambda: [n for n in self.recorded() if split_name(n)[1]]}
        names = []
        for word in words:
            if word in groups:
                found = groups[word]()
            elif word in DAEMONS:
                found = [n for n in self.recorded() if split_name(n)[0] == word]
            else:
                split_name(word)
                found = [word]
            names += [n for n in found if n not in names]
        if self.config.backends and any(n in BACKENDS for n in names):
            raise StackError(f"MariaDB and RabbitMQ belong to the stack in {self.config.backends}")
        return names

    @contextlib.contextmanager
    def lock(self):
        """One changing verb at a time for a stack."""
        self.config.state_dir.mkdir(parents=True, exist_ok=True)
        with open(self.config.state_dir / "lock", "w") as f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print("another call works on this stack; waiting for it", flush=True)
                fcntl.flock(f, fcntl.LOCK_EX)
            yield

    # -- up and down ------------------------------------------------------------------------------

    def up(self, words, assignments):
        config = self.config
        if config.ports_changed and any(self.service(n).running() for n in self.recorded()):
            raise StackError("the stack runs on other ports already (compose/local down first)")
        config.remember_daemon_settings(known_settings(config.settings["BUILD_DIR"]), assignments)
        names = self.resolve(words) if words else self.members()
        config.save()
        started = [n for n in names if not self.service(n).running()]
        try:
            if config.backends:
                run_sql(config, f"CREATE DATABASE IF NOT EXISTS `{config.settings['DB_NAME']}` "
                                "CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci")
            first = [n for n in names if split_name(n)[0] not in DAEMONS]
            self.start(first, {})
            self.start([n for n in names if n not in first], {})
        except BaseException:
            # Nothing half started is left running, and what ran before stays.
            self._stop_together([self.service(n) for n in reversed(started)])
            self._stop_epmd()
            raise

    def start(self, names, assignments, wait=True):
        services = [self.service(n) for n in names]
        for service in services:
            service.start(assignments)
        if not wait:
            return
        deadline = time.monotonic() + self.config.ready_timeout
        for service in services:
            self._wait_ready(service, deadline)

    def _wait_ready(self, service, deadline):
        def settled():
            return not service.running() or service.ready()

        done = wait_until(settled, deadline)
        if not service.running():
            problem = "ended while starting"
        elif not done:
            problem = f"is not ready after {self.config.ready_timeout:g} s"
        else:
            return
        raise StackError(f"{service.name} {problem}; the end of its log "
                         f"({self.config.log_file(service.name)}):\n{service.process.log_tail()}")

    def down(self, purge):
        names = self.recorded()
        # Clients before servers, each group at once: a drain still needs database and broker.
        groups = ([n for n in names if split_name(n)[1]],
                  [n for n in names if n in OPERATORS],
                  [n for n in names if n in BACKENDS])
        for group in groups:
            services = [self.service(n) for n in group]
            if purge and group is groups[2]:
                for service in services:
                    service.process.kill()  # its data goes next, and a broker takes long to leave
            else:
                self._stop_together(services)
            for service in services:
                service.process.forget()
        self._stop_epmd()
        if purge:
            self._purge()

    @staticmethod
    def _stop_together(services):
        for service in services:
            service.process.signal(signal.SIGTERM)
        for service in services:
            if not service.await_end():
                print(f"{service.name} did not end by itself and was killed", flush=True)

    def _stop_epmd(self):
        if not self.service("rabbitmq").running():
            epmd = self.service("epmd")
            self._stop_together([epmd])
            epmd.process.forget()

    def _purge(self):
        config = self.config
        if config.backends:
            try:
                run_sql(config, f"DROP DATABASE IF EXISTS `{config.settings['DB_NAME']}`")
                delete_broker_objects(config)
            except (StackError, subprocess.TimeoutExpired) as e:
                print(f"database and queues were not removed: {e}", flush=True)
        shutil.rmtree(config.state_dir)

    # -- single services --------------------------------------------------------------------------

    def stop(self, names):
        self._stop_together([self.service(n) for n in reversed(names)])

    def kill(self, names):
        for name in names:
            self.service(name).process.kill()

    def signal(self, names, number):
        for name in names:
            if not self.service(name).process.signal(number):
                raise StackError(f"{name} is not running")

    def run(self, name, assignments, wrapper):
        """Becomes the daemon: same pid, terminal and exit code as the caller's."""
        kind = split_name(name)[0]
        program = str(binary(self.config, "operator-sim" if name in OPERATORS else kind))
        if kind not in DAEMONS and name not in OPERATORS:
            raise StackError("run is for daemons and simulators")
        env = daemon_environment(self.config, name, assignments)
        command = [*shlex.split(wrapper), program]
        os.execvpe(command[0], command, env)

    # -- looking ----------------------------------------------------------------------------------

    def status(self):
        """(name, pid, port, state) of each service."""
        rows = []
        for name in self.recorded():
            service = self.service(name)
            pid = service.process.pid()
            state = "stopped" if pid is None else "ready" if service.ready() else "not ready"
            rows.append((name, pid or "-", service.port, state))
        return rows

    def environment(self):
        config, backend = self.config, self.config.backend()
        urls = {kind: [config.url(n) for n in self.recorded() if split_name(n)[0] == kind]
                for kind in DAEMONS}
        values = {
            "API_URL": urls["api"][0] if urls["api"] else config.url("api-1"),
            "API_URLS": " ".join(urls["api"]),
            "OPERATOR_A_URL": config.url("operator-a"),
            "OPERATOR_B_URL": config.url("operator-b"),
            "OPERATOR_A_CONTROL_URL": config.url("operator-a-control"),
            "OPERATOR_B_CONTROL_URL": config.url("operator-b-control"),
            "OUTBOXD_URLS": " ".join(urls["outboxd"]),
            "CONSUMERD_URLS": " ".join(urls["consumerd"]),
            **config.connection_environment(),
            "RABBIT_MANAGEMENT_URL": backend.url("rabbitmq-management"),
            "RABBIT_PROMETHEUS_URL": backend.url("rabbitmq-prometheus"),
            "RABBIT_USER_NAME": RABBIT_USER,
            "RABBIT_PASSWORD": RABBIT_PASSWORD,
            "STATE_DIR": str(config.state_dir),
            "BUILD_DIR": config.settings["BUILD_DIR"],
            "PORT_BASE": str(config.port_base),
        }
        for name in self.recorded():
            pid = self.service(name).process.pid()
            values["PID_" + name.upper().replace("-", "_")] = str(pid or "")
        return values
