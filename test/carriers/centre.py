"""The SMPP centre (centre.js) as an object."""

import json
import subprocess
from collections import Counter
from pathlib import Path

import requests


class Centre:
    def __init__(self):
        self._start(0, 0)

    def _start(self, smpp, control):
        self.process = subprocess.Popen(["node", "centre.js", str(smpp), str(control)], stdout=subprocess.PIPE, text=True,
                                        cwd=Path(__file__).resolve().parent)
        ports = json.loads(self.process.stdout.readline())
        self.port, self._control = ports["smpp"], f"http://127.0.0.1:{ports['control']}"

    def manner(self, **fields):
        """How it treats recipients; what is not named is as at first."""
        answer = requests.put(self._control + "/manner", json=fields, timeout=10)
        assert answer.status_code == 200, answer.text

    def submits(self):
        return requests.get(self._control + "/submits", timeout=60).json()

    def count(self):
        return requests.get(self._control + "/count", timeout=10).json()

    def times(self):
        """{recipient: how often it has a text for it}, by first parts."""
        return Counter(submit["to"] for submit in self.submits() if submit["part"] == 1)

    def stop(self):
        self.process.kill()
        self.process.wait()
