"""The packages in a clean Debian: what they install, that it delivers, and what is left of it."""

import re
import shutil
import subprocess

import pytest
import requests
from machine import (DAEMONS, DOCUMENT, ETC, PACKAGES, REPOSITORY, KeyedApi, Platform, machine,  # noqa: F401
                     make_packages, packages, servers, wait_known)

CARRIER = """[carrier]
kind = native
url = http://127.0.0.1:1
receipt.format = json
receipt.delivered = json:status == delivered
receipt.undelivered = json:status == failed
receipt.secret = %{secret:CARRIER_RECEIPTS}
"""
CONFFILES = {f"/{ETC}/{name}.env" for name in ("platform", *DAEMONS.values(), "operator-sim")}
PROGRAMS = {"msg-api": 8, "msg-outboxd": 8, "msg-consumerd": 8, "operator-sim": 8, "msg-loadtest": 1}


@pytest.mark.skipif(not shutil.which("lintian"), reason="lintian is not installed (test/deps packages)")
def test_lintian_finds_no_error(packages):  # noqa: F811
    done = subprocess.run(["lintian", "--allow-root", "--fail-on", "error", *map(str, packages.values())],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
    assert done.returncode == 0, done.stdout


def test_what_is_inside(packages):  # noqa: F811
    for name, path in packages.items():
        files = subprocess.run(["dpkg-deb", "--fsys-tarfile", path], check=True, capture_output=True).stdout
        names = subprocess.run(["tar", "-t"], input=files, check=True, capture_output=True).stdout.decode().split()
        assert f"./usr/share/doc/{name}/copyright" in names and f"./usr/share/doc/{name}/changelog.Debian.gz" in names
        if name in PROGRAMS:
            section = PROGRAMS[name]
            assert f"./usr/bin/{name}" in names and f"./usr/share/man/man{section}/{name}.{section}.gz" in names
        examples = {n.rpartition("/")[2] for n in names if n.startswith("./usr/share/distributed-messaging-platform/operators.d/")} - {""}
        assert examples == ({p.name for p in (REPOSITORY / "consumerd" / "operators.d").iterdir()}
                            if name == "msg-consumerd" else set())
        listed = subprocess.run(["dpkg-deb", "--info", path, "conffiles"], capture_output=True, text=True).stdout
        assert set(listed.split()) == {n[1:] for n in names if n.startswith("./etc/") and not n.endswith("/")}


@pytest.mark.parametrize("program", PROGRAMS)
def test_manual_pages_are_clean_and_complete(program, packages, tmp_path):  # noqa: F811
    """groff has nothing to say about them, and every setting or option of --help is there."""
    subprocess.run(["dpkg-deb", "--extract", packages[program], tmp_path], check=True)
    page = tmp_path / f"usr/share/man/man{PROGRAMS[program]}/{program}.{PROGRAMS[program]}.gz"
    done = subprocess.run(["man", "--warnings", "--local-file", page], capture_output=True, text=True,
                          env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANWIDTH": "200"})
    assert done.returncode == 0 and done.stderr == ""
    text = " ".join(done.stdout.split())
    said = subprocess.run([tmp_path / "usr/bin" / program, "--help"], capture_output=True, text=True).stdout
    heads = [line.split()[0] for line in said.splitlines() if line.startswith("  ") and line[2] != " "]
    assert len(heads) > 10 and [h for h in heads if h not in text] == []


def test_life_of_an_installation(machine, servers, packages, tmp_path_factory):  # noqa: F811
    before = machine.files()

    machine.install(packages)
    platform = Platform(machine, servers)
    for unit in platform.units:
        assert machine.active(unit) == "inactive", "an installation starts nothing"
    assert "messaging-platform" not in machine.checked("systemctl", "list-unit-files", "--state=enabled")
    assert CONFFILES <= machine.files()
    assert machine.checked("systemd-analyze", "verify", "--man=no", "/lib/systemd/system/messaging-platform.target",
                           *(f"/lib/systemd/system/{u.replace('@' + platform.operators[0], '@')}"
                             for u in platform.units[:4])) == ""

    platform.configure()
    platform.start()
    platform.deliver()
    page = requests.get(platform.api.url + "/swagger/openapi.yaml", timeout=10)
    assert page.status_code in (200, 404)  # 404: built without Swagger UI
    assert (page.status_code == 200) == (machine.root / "usr/share/distributed-messaging-platform/swagger/"
                                         "swagger-ui-bundle.js").exists()
    load = ["msg-loadtest", "-base-url", platform.api.url, "-users", "20", "-seed-method", "http",
            "-api-key-file", f"/{ETC}/admin_key"]
    machine.checked(*load, "-seed-only", "-seed-balance", "1000")
    values = servers.values
    machine.checked(*load, "-rps", "100", "-duration", "3s", "-verify", "-operators",
                    ",".join(f"http://127.0.0.1:{p}" for p in platform.operators), "-seed-db-dsn",
                    f"{values['DB_USER_NAME']}:{values['DB_PASSWORD']}@tcp({values['DB_HOST']}:{values['DB_PORT']})"
                    f"/{values['DB_NAME']}")

    # A carrier whose secret is a credential, to the unit, to the verbs and to the package's own; and an instance's file.
    (machine.root / ETC / "operators.d").mkdir()
    platform.write("operators.d/carrier.ini", CARRIER)
    platform.write("credentials/CARRIER_RECEIPTS", "a-long-word\n").chmod(0o600)
    platform.write("msg-consumerd@8083.env", "CONSUMERD_PARTS=webhooks\n")
    with open(machine.root / ETC / "msg-api.env", "a") as file:
        file.write(f"OPERATORS_FILE=/{ETC}/operators.d\nRECEIPT_REFERENCE_KEY={32 * 'k'}\n")
    key = machine.root / ETC / "admin_key"
    kept = key.read_text()
    key.unlink()
    done = machine.run("dpkg-reconfigure", "msg-api")
    assert done.returncode == 0 and "No API key was made" not in done.stdout, done.stdout
    key.write_text(kept)
    key.chmod(0o600)
    platform.wait_ready()

    # The verbs as the page on packages has them.
    shell = re.search(r"^platform\(\) \(\n.*?^\)\n(platform .*?)(?=```)", DOCUMENT.read_text(), re.M | re.S)
    assert shell[1].count("platform msg-") == 4
    said = machine.checked("sh", "-e", "-c", shell[0])
    assert "settings ok" in said, said
    create = re.search(r"^platform msg-api key create .*$", DOCUMENT.read_text(), re.M)[0]
    function = shell[0].removesuffix(shell[1])
    made = machine.checked("sh", "-e", "-c", f"{function}{create} 2>/dev/null").strip()
    assert platform.api.top_up(1, 10).status_code == 200
    shop = KeyedApi(platform.api.url, made)
    wait_known(shop)
    assert shop.post("/messages/send", {"text": "hi", "type": "normal", "recipients": ["0912"]}).status_code == 200
    assert shop.get("/balance", user_id=2).status_code == 404, "bound to customer 1"

    # An upgrade keeps what was configured and restarts what runs, and nothing else.
    ours = {path: (machine.root / path[1:]).read_text() for path in CONFFILES}
    pids = {unit: machine.show(unit, "MainPID") for unit in platform.units}
    machine.checked("systemctl", "stop", f"operator-sim@{platform.operators[1]}.service")
    machine.install(make_packages(tmp_path_factory.mktemp("upgrade"), 2))
    versions = machine.checked("dpkg-query", "--show", "--showformat=${Version}\n", *PACKAGES).split()
    assert [version[-2:] for version in versions] == ["-2"] * len(PACKAGES)
    assert {path: (machine.root / path[1:]).read_text() for path in CONFFILES} == ours
    key = machine.root / ETC / "admin_key"
    assert re.fullmatch(r"msg_live_\w+_\w+\n", key.read_text()) and key.stat().st_mode & 0o777 == 0o600
    assert key.read_text().strip() == platform.key
    assert machine.active(platform.units[-1]) == "inactive"
    machine.checked("systemctl", "start", platform.units[-1])
    platform.wait_ready()
    assert [unit for unit in platform.units if machine.show(unit, "MainPID") == pids[unit]] == []
    platform.deliver()

    # Back to the version before: the same, with the configuration kept.
    machine.checked("apt-get", "install", "-q", "-y", "--allow-downgrades", *(
        f"/var/tmp/packages/{_keep(machine, path)}" for path in packages.values()))
    platform.wait_ready()
    platform.deliver()

    machine.checked("apt-get", "remove", "-q", "-y", *PACKAGES)
    for unit in platform.units:
        assert machine.show(unit, "MainPID") == "0", unit
    left = machine.files() - before
    ours = {path for path in left if "messaging-platform" in path or "msg-" in path or "operator-sim" in path}
    state = {path for path in ours if path.startswith(("/var/lib/operator-sim", "/var/lib/private/operator-sim"))}
    allowed = (f"/{ETC}", "/etc/systemd/system/messaging-platform.target.wants",
               "/etc/systemd/system/multi-user.target.wants/messaging-platform.target")
    assert CONFFILES <= ours and state, "configuration and state stay until they are purged"
    assert {path for path in ours - state if not path.startswith(allowed)} == set()

    machine.checked("dpkg", "--purge", *PACKAGES)
    machine.checked("apt-get", "autoremove", "-q", "-y", "--purge")
    assert machine.files() - before - {"/var/lib/private"} == set()
    assert machine.run("dpkg-query", "--show", *PACKAGES).stdout.count("no packages found") == len(PACKAGES)


def _keep(machine, path):  # noqa: F811
    shutil.copy(path, machine.root / "var/tmp/packages")
    return path.name
