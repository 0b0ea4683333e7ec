"""Answers held against the API's OpenAPI document."""

import copy
from pathlib import Path

import jsonschema
import yaml

FILE = Path(__file__).resolve().parents[3] / "api" / "openapi.yaml"
METHODS = ("get", "put", "post", "delete", "patch", "head", "options")


def _plain(node, root):
    """Without references, and OpenAPI 3.0's nullable in JSON Schema's words."""
    if isinstance(node, list):
        return [_plain(n, root) for n in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target = root
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part.replace("~1", "/").replace("~0", "~")]
        return _plain(target, root)
    node = {k: _plain(v, root) for k, v in node.items()}
    if node.get("nullable") is True:
        node["type"] = [node["type"], "null"]
    return node


def _validate(value, schema):
    jsonschema.Draft7Validator(schema, format_checker=jsonschema.FormatChecker()).validate(value)


class Document:
    def __init__(self):
        raw = yaml.safe_load(FILE.read_text())
        self.root = _plain(copy.deepcopy(raw), raw)

    def operations(self):
        """[(METHOD, path, operation)]"""
        return [(method.upper(), path, operation) for path, item in self.root["paths"].items()
                for method, operation in item.items() if method in METHODS]

    def answers(self):
        """{(METHOD, path, status)} that are documented."""
        return {(method, path, int(status)) for method, path, operation in self.operations()
                for status in operation["responses"]}

    def _response(self, method, path, status):
        return self.root["paths"][path][method.lower()]["responses"][str(status)]

    def check(self, method, path, response):
        """Fails unless the answer is one that this operation documents, in every part."""
        documented = self._response(method, path, response.status_code)
        for name, header in documented.get("headers", {}).items():
            value = response.headers.get(name)
            assert value is not None or not header.get("required"), f"{name} is missing"
            if value is not None:
                number = header["schema"]["type"] == "integer"
                _validate(int(value) if number else value, header["schema"])
        if "content" not in documented:
            assert response.content == b"", response.content[:200]
            return
        kind = response.headers["Content-Type"]
        assert kind in documented["content"], kind
        schema = documented["content"][kind]["schema"]
        if kind == "application/json":
            _validate(response.json(), schema)

    def examples(self):
        """[(where, value, schema)] of every example of a body."""
        found = []
        for method, path, operation in self.operations():
            bodies = {f"{method} {path} {status}": r for status, r in operation["responses"].items()}
            bodies[f"{method} {path} request"] = operation.get("requestBody", {})
            for where, body in bodies.items():
                for media in body.get("content", {}).values():
                    found += [(f"{where} {name}", example["value"], media["schema"])
                              for name, example in media.get("examples", {}).items()]
        return found

    def errors_without_example(self):
        return [f"{method} {path} {status}" for method, path, operation in self.operations()
                for status, response in operation["responses"].items() if int(status) >= 400
                if not response["content"]["application/json"].get("examples")]

    check_value = staticmethod(_validate)
