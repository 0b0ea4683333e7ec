"""Stacks for the tests. `shared` is started once and only used, never harmed; whoever breaks things
takes a `world` (own database, queues and daemons on the shared MariaDB and RabbitMQ) or, to break
those, `fresh_stack`.
"""

import os

import pytest

from harness.stack import Stack, missing_binaries

os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
_in_use = []


# The files that take longest go first, so that no worker is left alone with one of them at the end.
LONGEST = ("test_load", "test_cells", "test_lifecycle", "test_delivery", "test_doorbell", "test_dead", "test_bundle_intake", "test_audit",
           "test_held", "test_limits", "test_carriers")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


def pytest_sessionstart(session):
    missing = missing_binaries()
    if missing:
        pytest.exit("not built (make build): " + " ".join(missing), returncode=2)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.failed:
        for stack in _in_use:
            for name, text in stack.log_tails():
                report.sections.append((f"log of {name}", text))


@pytest.fixture(scope="session")
def servers():
    """MariaDB and RabbitMQ for all who do not harm them."""
    stack = Stack("servers")
    try:
        yield stack.up("backends")
    finally:
        stack.purge()


@pytest.fixture(scope="session")
def shared(servers):
    """A whole platform, two replicas of the API, without limits."""
    stack = Stack("shared", servers, replicas={"api": 2, "outboxd": 1, "consumerd": 1})
    _in_use.append(stack)
    try:
        yield stack.up()
    finally:
        stack.purge()
        _in_use.remove(stack)


class Worlds:
    """Makes stacks on given servers and purges them at the end of the scope it was made for."""

    def __init__(self, name, servers):
        self.name = name
        self.servers = servers
        self.made = []

    def __call__(self, *names, replicas=1, carriers=(), **settings):
        """Starts `names` (default: everything); settings are the daemons'. carriers: the operators."""
        stack = Stack(self.name, self.servers, replicas, settings, carriers=carriers)
        self.made.append(stack)
        _in_use.append(stack)
        return stack.up(*names)

    def purge(self):
        for stack in self.made:
            _in_use.remove(stack)
            stack.purge()


def _short_name(node):
    return node.name.split("[")[0].split("/")[-1].removeprefix("test_").removesuffix(".py")[:40]


@pytest.fixture
def world(request, servers):
    """make(*names, replicas=…, carriers=…, SETTING=…) -> Stack"""
    worlds = Worlds(_short_name(request.node), servers)
    yield worlds
    worlds.purge()


@pytest.fixture(scope="module")
def module_world(request, servers):
    worlds = Worlds(_short_name(request.node), servers)
    yield worlds
    worlds.purge()


@pytest.fixture(scope="session")
def own_servers():
    """MariaDB and RabbitMQ that a test may stop; each leaves them running, and as they were."""
    stack = Stack("own-servers")
    try:
        yield stack.up("backends")
    finally:
        stack.purge()


@pytest.fixture
def fragile(request, own_servers):
    """Like `world`, on servers that may be stopped. Ends with both running again."""
    worlds = Worlds(_short_name(request.node), own_servers)
    yield worlds
    own_servers.up("backends")
    worlds.purge()
