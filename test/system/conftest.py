"""Stacks for the tests. `shared` is started once and only used, never harmed; whoever breaks things
takes a `world` (own database, queues and daemons on the shared MariaDB and RabbitMQ) or, to break
those, `fresh_stack`.
"""

import pytest

from harness.stack import Stack, missing_binaries

_in_use = []


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


def _factory(request, backends_of):
    def make(*names, replicas=1, on=None, **settings):
        """Starts `names` (default: everything); settings are the daemons'."""
        stack = Stack(request.node.name.split("[")[0][:40].replace("test_", "", 1),
                      on or backends_of(), replicas, settings)
        _in_use.append(stack)
        request.addfinalizer(lambda: (_in_use.remove(stack), stack.purge()))
        return stack.up(*names)
    return make


@pytest.fixture
def world(request, servers):
    """make(*names, replicas=…, SETTING=…) -> Stack on the shared servers."""
    return _factory(request, lambda: servers)


@pytest.fixture(scope="module")
def module_world(request, servers):
    return _factory(request, lambda: servers)


@pytest.fixture(scope="module")
def own_servers():
    """MariaDB and RabbitMQ that the tests of one module may stop; each leaves them running."""
    stack = Stack("own-servers")
    try:
        yield stack.up("backends")
    finally:
        stack.purge()


@pytest.fixture
def fragile(request, own_servers):
    """Like `world`, on servers that may be stopped. Ends with both running again."""
    make = _factory(request, lambda: own_servers)
    yield make
    own_servers.up("backends")
