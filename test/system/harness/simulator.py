"""operator-sim alone, as a process of the test, with its receipts."""

import requests

from .operators import Operator
from .raw import Server
from .wait import wait_until


class Sim(Operator):
    def __init__(self, name, **settings):
        self.server = Server(SIM_NAME=name, **settings)
        super().__init__(name, f"http://127.0.0.1:{self.server.port}")
        self.session = requests.Session()

    def send(self, reference, **fields):
        """As msg-consumerd does; the id."""
        answer = self.session.post(self.url + "/messages", json={
            "reference": reference, "to": "+98912000", "text": "hi", "type": "normal", **fields})
        assert answer.status_code == 200, answer.text
        return answer.json()["id"]

    def send_all(self, n, **fields):
        """{reference: id}"""
        return {f"m-{i}": self.send(f"m-{i}", **fields) for i in range(n)}

    def settled(self, deadline=20):
        """The counts, once nothing waits and nothing is under way."""
        return wait_until(lambda: (c := self.receipt_counts())["waiting"] == c["in_flight"] == 0 and c, deadline)

    def said(self):
        """{reference: what its last receipt that was taken said of the message}"""
        return {entry["reference"]: entry["receipt"] for entry in self.ledger()}

    def stop(self):
        return self.server.stop()
