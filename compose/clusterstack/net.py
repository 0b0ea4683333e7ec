"""Machines as network namespaces on one bridge. What runs on a machine also has a host name and an /etc/hosts of its
own. Needs root.
"""

import contextlib
import os
import subprocess
from pathlib import Path

from localstack.config import StackError
from localstack.services import find_program

from .config import MACHINES, machine_of, split_name

# Arguments: the host name, the hosts file, the command. It stays the same process all the way.
INSIDE = 'mount --bind "$1" /etc/hosts && hostname "$0" && shift && exec "$@"'


def run(*command, text=None, check=True):
    done = subprocess.run(command, input=text, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if check and done.returncode:
        raise StackError(f"{' '.join(command)}: {done.stdout.strip()}")
    return done


class Network:
    def __init__(self, config):
        self.config = config
        self.name = config.settings["CLUSTER_NAME"]
        self.bridge = f"{self.name}-br"
        self.hosts = config.state_dir / "hosts"
        self.owner = Path("/run", f"{self.name}.cluster")  # whose namespaces they are

    def namespace(self, machine):
        return f"{self.name}-{machine}"

    def exists(self, machine):
        return Path("/run/netns", self.namespace(machine)).exists()

    def up(self):
        if os.geteuid():
            raise StackError("network namespaces need root")
        for program in ("ip", "iptables-restore", "nsenter", "unshare"):
            find_program(program)
        with contextlib.suppress(FileNotFoundError):
            if (owner := self.owner.read_text()) != str(self.config.state_dir):
                raise StackError(f"there is a cluster {self.name} of {owner}: choose another CLUSTER_NAME and"
                                 " CLUSTER_NETWORK")
        self.owner.write_text(str(self.config.state_dir))
        address = self.config.address
        self.hosts.write_text("127.0.0.1 localhost\n" + "".join(f"{address(m)} {m}\n" for m in MACHINES))
        if not Path("/sys/class/net", self.bridge).exists():
            run("ip", "link", "add", self.bridge, "type", "bridge")
            run("ip", "address", "add", f"{address('host')}/24", "dev", self.bridge)
            run("ip", "link", "set", self.bridge, "up")
        for machine in MACHINES:
            if not self.exists(machine):
                self._add(machine)

    def _add(self, machine):
        space = self.namespace(machine)
        run("ip", "netns", "add", space)
        run("ip", "link", "add", space, "type", "veth", "peer", "name", "eth0", "netns", space)
        run("ip", "link", "set", space, "master", self.bridge, "up")
        run("ip", "-n", space, "address", "add", f"{self.config.address(machine)}/24", "dev", "eth0")
        for link in ("lo", "eth0"):
            run("ip", "-n", space, "link", "set", link, "up")

    def down(self):
        if not self.owner.exists() or self.owner.read_text() != str(self.config.state_dir):
            return
        for machine in MACHINES:
            if self.exists(machine):
                run("ip", "link", "delete", self.namespace(machine))  # the namespace itself goes when it likes
                run("ip", "netns", "delete", self.namespace(machine))
        if Path("/sys/class/net", self.bridge).exists():
            run("ip", "link", "delete", self.bridge)
        self.owner.unlink()

    def on(self, machine, command):
        """A command as it runs on that machine."""
        return ["nsenter", f"--net=/run/netns/{self.namespace(machine)}", "unshare", "--mount", "--uts",
                "sh", "-c", INSIDE, machine, str(self.hosts), *command]

    # -- what goes wrong -----------------------------------------------------------------------------

    def partition(self, some, others, ports=()):
        """Between these and those nothing gets through any more, in silence; nothing to and from these TCP ports, if
        there are any. What was cut before stays cut."""
        kinds = [f"-p tcp --{way}port {port} " for port in ports for way in ("s", "d")] or [""]
        for here, there in ((some, others), (others, some)):
            addresses = [self.config.address(m) for m in there]
            rules = "".join(f"-A INPUT -s {a} {kind}-j DROP\n-A OUTPUT -d {a} {kind}-j DROP\n"
                            for a in addresses for kind in kinds)
            for machine in here:
                if machine != "host":  # whose rules are not ours; the other side drops
                    self._filter(machine, rules, "--noflush")

    def heal(self, but=()):
        """but: machines whose links stay as they are."""
        for machine in MACHINES:
            self._filter(machine, "")
            if machine not in but:
                self.link(machine, "up")

    def _filter(self, machine, rules, *options):
        run("ip", "netns", "exec", self.namespace(machine), "iptables-restore", *options,
            text=f"*filter\n{rules}COMMIT\n")

    def link(self, machine, state):
        """`down` is the cable pulled out: who talks to it hears nothing, not even a refusal."""
        run("ip", "link", "set", self.namespace(machine), state)

    def partitioned(self):
        """[(machine, addresses it does not hear)], and those without a link."""
        rows = []
        for machine in filter(self.exists, MACHINES):
            space = self.namespace(machine)
            said = run("ip", "netns", "exec", space, "iptables-save", "-t", "filter", check=False).stdout
            deaf = [line.split()[3].partition("/")[0] for line in said.splitlines() if line.startswith("-A INPUT")]
            if deaf:
                rows.append((machine, deaf))
            if Path("/sys/class/net", space, "operstate").read_text().strip() == "down":
                rows.append((machine, ["everybody"]))
        return rows


def machines(word):
    """'m1,db2' or a service's name: the machines that are meant."""
    found = []
    for part in word.split(","):
        machine = part if part in MACHINES or part == "host" else machine_of(part if split_name(part) else "").name
        if machine not in found:
            found.append(machine)
    return found
