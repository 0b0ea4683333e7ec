"""API keys as whoever operates the platform makes them, and clients that bring one."""

import re
import subprocess
import zlib

from .client import Api
from .wait import wait_until

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ids = {}  # key -> id

# Scope, and whether the call names a customer.
ROUTES = {
    ("POST", "/messages/send"): ("send", True),
    ("GET", "/messages/history"): ("read", True),
    ("GET", "/balance"): ("read", True),
    ("POST", "/balance/add"): ("topup", True),
    ("GET", "/messages/{id}"): ("read", True),
    ("POST", "/webhooks"): ("webhooks", True),
    ("GET", "/webhooks"): ("webhooks", True),
    ("GET", "/webhooks/{id}"): ("webhooks", True),
    ("DELETE", "/webhooks/{id}"): ("webhooks", True),
    ("GET", "/webhooks/{id}/attempts"): ("webhooks", True),
    ("POST", "/webhooks/{id}/replay"): ("webhooks", True),
    ("POST", "/webhooks/{id}/rotate"): ("webhooks", True),
    ("POST", "/webhooks/{id}/enable"): ("webhooks", True),
    ("GET", "/metrics"): ("metrics", False),
    ("GET", "/status"): ("metrics", False),
    ("GET", "/status.json"): ("metrics", False),
    ("GET", "/swagger/{file}"): ("any", False),
}


ABSENT = 999999999


def asks_for_one(path):
    """About something of the customer's that `ask` says a number of that nobody has."""
    return "{id}" in path


def ask(api, method, path, customer):
    """One call that is about this customer, if it is about any."""
    if asks_for_one(path):
        query = {"user_id": customer, **({"from": "2020-01-01T00:00:00Z"} if "replay" in path else {})}
        return api.request(method, path.replace("{id}", str(ABSENT)), params=query,
                           headers={"Content-Type": "application/json"})
    if (method, path) == ("POST", "/webhooks"):
        return api.post(path, {"user_id": customer, "url": "https://example.com/"})
    if path == "/messages/send":
        return api.send(customer)
    if path == "/balance/add":
        return api.top_up(customer, 1)
    about = {"user_id": customer} if ROUTES[method, path][1] else {}
    return api.get(path.replace("{file}", "openapi.yaml"), **about)


def verb(stack, *words):
    """The finished `msg-api key …` on a stack's database."""
    values = {name: stack.values[name] for name in ("DB_HOST", "DB_PORT", "DB_NAME", "DB_USER_NAME", "DB_PASSWORD",
                                                    "RABBIT_URI")}
    done = subprocess.run([stack.binary("api"), "key", *words], env=values, capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done


def create(stack, scopes, customer=None, networks=None, expires=None, label="test"):
    done = verb(stack, "create", f"--label={label}", f"--scopes={scopes}",
                *([f"--customer={customer}"] if customer else []), *([f"--from={networks}"] if networks else []),
                *([f"--expires={expires}"] if expires else []))
    key = done.stdout.strip()
    _ids[key] = re.search(r"key (\d+) is made", done.stderr)[1]
    return key


def revoke(stack, key):
    verb(stack, "revoke", _ids[key])


def stranger():
    """Of the right form, and of nobody."""
    body, sum_ = "msg_live_" + "1" * 33, ""
    left = zlib.crc32(body.encode())
    for _ in range(6):
        left, digit = divmod(left, 62)
        sum_ = ALPHABET[digit] + sum_
    return f"{body}_{sum_}"


def wait_known(api, deadline=10):
    """Until a replica has heard of the API's key, which is bound to nobody."""
    wait_until(lambda: api.get("/balance", user_id=1).status_code not in (401, 503), deadline, "the key is known",
               pause=0.05)


def headers(key, header="Authorization"):
    """What brings a key (None: nothing) in this header."""
    if key is None:
        return {}
    return {header: f"Bearer {key}" if header == "Authorization" else key}


class KeyedApi(Api):
    """The same calls with a key."""

    def __init__(self, url, key, header="Authorization"):
        super().__init__(url, headers(key, header))
