"""An operator simulator: what it is told to do wrong, and what it has accepted."""

import requests

TIMEOUT = 30


class Operator:
    def __init__(self, name, url):
        self.name, self.url = name, url

    def faults(self, **faults):
        response = requests.put(self.url + "/faults", json=faults, timeout=TIMEOUT)
        assert response.status_code == 200, response.text

    def heal(self):
        response = requests.delete(self.url + "/faults", timeout=TIMEOUT)
        assert response.status_code in (200, 204), response.text

    def counts(self):
        response = requests.get(self.url + "/ledger/count", timeout=TIMEOUT)
        assert response.status_code == 200, response.text
        return response.json()

    def receipts(self, **fields):
        """What it is told to send; replaces what it was told before."""
        response = requests.put(self.url + "/receipts", json=fields, timeout=TIMEOUT)
        assert response.status_code == 200, response.text
        return response.json()

    def receipt_counts(self):
        response = requests.get(self.url + "/receipts/count", timeout=TIMEOUT)
        assert response.status_code == 200, response.text
        return response.json()

    def entry(self, reference):
        """What was accepted under a reference, or None."""
        response = requests.get(f"{self.url}/ledger/{reference}", timeout=TIMEOUT)
        if response.status_code == 404:
            return None
        assert response.status_code == 200, response.text
        return response.json()

    def ledger(self):
        """Every entry, whatever the page size."""
        entries, cursor = [], None
        while True:
            response = requests.get(self.url + "/ledger", timeout=TIMEOUT,
                                    params={"cursor": cursor} if cursor else None)
            assert response.status_code == 200, response.text
            page = response.json()
            entries += page["ledger"]
            cursor = page.get("next_cursor")
            if not cursor:
                return entries
