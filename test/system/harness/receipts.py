"""Receipts as operators bring them."""

import base64
import hashlib
import hmac
import json

import requests

KEY = "the key of the tests' references"


def reference(operator, message, position, key=KEY):
    """As libcommon/domain/receipt_reference.h says."""
    what = f"{message}-{position}"
    mac = hmac.new(key.encode(), f"receipt\n{operator}\n{what}".encode(), hashlib.sha256).hexdigest()[:32]
    return f"{what}.{mac}"


def section(name, url, *lines):
    """A native operator's, whose receipts are signed JSON."""
    return "\n".join([f"[{name}]", "kind = native", f"url = {url}", "receipt.format = json",
                      "receipt.delivered = json:status == delivered",
                      "receipt.undelivered = json:status == undelivered",
                      "receipt.interim = json:status == buffered",
                      "receipt.reason = expired when json:code == 27",
                      "receipt.reference = json:reference", "receipt.id = json:id",
                      "receipt.code = json:code", "receipt.words = json:text", "receipt.part = json:part",
                      "receipt.signature = sha256", f"receipt.signature_key = key of {name}",
                      "receipt.signature_header = X-Signature", *lines, ""])


SIGNING = "the key of the simulators' receipts"
SIMULATED = """receipt.format = json
receipt.delivered = json:status == delivered
receipt.undelivered = json:status in undelivered, expired
receipt.interim = json:status == sent
receipt.reason = expired when json:status == expired
receipt.id = json:id
receipt.code = json:code
receipt.words = json:words
receipt.part = json:part
receipt.signature = sha256
receipt.signature_header = X-Signature
"""


def simulated(sim, answer="text", receipt="text", reference=True):
    """The section of a simulator; ids as it writes them in answers and in receipts, and whether its receipts are known
    by their reference."""
    lines = [f"[{sim.name}]", "kind = native", f"url = {sim.url}", f"receipt.answer_id_form = {answer}",
             f"receipt.id_form = {receipt}", f"receipt.signature_key = {SIGNING}", SIMULATED]
    if reference:
        lines += ["receipt.reference = json:reference", "receipt.reference_form = plain"]
    return "\n".join(lines) + "\n"


class Bringer:
    """Brings receipts for one operator to one msg-api."""

    def __init__(self, url, name):
        self.url, self.name = f"{url}/operators/{name}/receipts", name
        self.key = f"key of {name}"
        self.session = requests.Session()

    def signature(self, body):
        return hmac.new(self.key.encode(), body, hashlib.sha256).hexdigest()

    def raw(self, body, **headers):
        headers.setdefault("X-Signature", self.signature(body))
        return self.session.post(self.url, data=body, timeout=30,
                                 headers={"Content-Type": "application/json", **headers})

    def bring(self, receipts):
        """A dictionary, or a list of them."""
        return self.raw(json.dumps(receipts).encode())

    def tell(self, status, message, position=0, **fields):
        """Of a recipient, by our reference; it has to be stored."""
        response = self.bring({"status": status, "reference": reference(self.name, message, position), **fields})
        assert response.status_code == 200, response.text

    def tell_of(self, status, id, **fields):
        """By the operator's own identifier."""
        response = self.bring({"status": status, "id": id, **fields})
        assert response.status_code == 200, response.text


def basic(user, password):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
