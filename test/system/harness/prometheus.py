"""Debian's Prometheus on the repository's configuration, scraping a stack of the tests."""

import re
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import requests
import yaml

from .stack import REPOSITORY
from .wait import wait_until

CONFIG = REPOSITORY / "grafana" / "prometheus"
SCRAPE = "1s"
RATE_INTERVAL = "15s"  # $__rate_interval at this scrape interval: some samples, soon


def available():
    return shutil.which("prometheus") and shutil.which("promtool")


def promtool(*words, text=None):
    """Its exit code and all it says."""
    done = subprocess.run(["promtool", *map(str, words)], input=text, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=300)
    return done.returncode, done.stdout


def targets_of(stack):
    values = stack.values
    rabbit = values["RABBIT_PROMETHEUS_URL"]
    urls = {"messaging-platform-api": values["API_URLS"],
            "messaging-platform-outboxd": values["OUTBOXD_URLS"],
            "messaging-platform-consumerd": values["CONSUMERD_URLS"],
            "rabbitmq": rabbit, "rabbitmq-queues": rabbit}
    return {job: [url.removeprefix("http://") for url in text.split()] for job, text in urls.items()}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Prometheus:
    """The jobs of prometheus-local.yml with the stack's targets, scraped and ruled every second."""

    def __init__(self, stack):
        self.directory = Path(tempfile.mkdtemp(prefix="msg-prometheus-"))
        self.targets = targets_of(stack)
        self.url = f"http://127.0.0.1:{free_port()}"
        self._write_config()
        with open(self.directory / "log", "wb") as log:
            self.process = subprocess.Popen(
                ["prometheus", "--enable-feature=exemplar-storage",
                 f"--config.file={self.directory / 'prometheus.yml'}",
                 f"--storage.tsdb.path={self.directory / 'data'}",
                 f"--web.listen-address={self.url.removeprefix('http://')}"],
                stdout=log, stderr=subprocess.STDOUT)

    def _write_config(self):
        config = yaml.safe_load((CONFIG / "prometheus-local.yml").read_text())
        config["global"] = {"scrape_interval": SCRAPE, "scrape_timeout": SCRAPE,
                            "evaluation_interval": SCRAPE}
        for job in config["scrape_configs"]:
            job["static_configs"] = [{"targets": self.targets[job["job_name"]]}]
        for name in config["rule_files"]:
            text = (CONFIG / name).read_text()
            (self.directory / name).parent.mkdir(exist_ok=True)
            (self.directory / name).write_text(re.sub(r"(?m)^( +interval:).*$", rf"\1 {SCRAPE}", text))
        (self.directory / "prometheus.yml").write_text(yaml.safe_dump(config))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.directory)

    def log_text(self):
        return (self.directory / "log").read_text(errors="replace")

    def ready(self):
        try:
            return requests.get(self.url + "/-/ready", timeout=30).status_code == 200
        except requests.ConnectionError:
            return False

    def get(self, path, **parameters):
        response = requests.get(self.url + path, params=parameters, timeout=30)
        answer = response.json()
        assert answer["status"] == "success", f"{parameters}: {answer}"
        return answer["data"]

    def query(self, expression):
        return self.get("/api/v1/query", query=expression)["result"]

    def wait_scraped(self, samples=5):
        """Every target of every job has been scraped so many times."""
        wanted = sorted((job, t) for job, list_ in self.targets.items() for t in list_)

        def scraped():
            assert self.process.poll() is None, self.log_text()
            if not self.ready():
                return False
            found = self.query(f"count_over_time((up == 1)[1m:{SCRAPE}]) >= {samples}")
            return sorted((s["metric"]["job"], s["metric"]["instance"]) for s in found) == wanted

        wait_until(scraped, 60, lambda: f"scrapes of {wanted}: {self.log_text()[-2000:]}", pause=0.3)

    def rules(self):
        return [rule for group in self.get("/api/v1/rules")["groups"] for rule in group["rules"]]
