"""Processor time and highest resident memory of processes, as the kernel counts them."""

import os
import time
from pathlib import Path

TICK_SEC = 1 / os.sysconf("SC_CLK_TCK")


def cpu_sec(pid):
    """User and system time so far, all threads; finer than the ticks of /proc, which an idle daemon hardly uses."""
    return time.clock_gettime(~pid << 3 | 2)  # what clock_getcpuclockid(3) gives


def peak_mib(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def machine_sec():
    """Busy time of all cores so far, whoever used it; what the hypervisor gave to others counts too."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) * TICK_SEC


def own_sec():
    """Of this process and of its children that have ended."""
    return sum(os.times()[:4])


class Meter:
    """From its making to stop(): seconds of processor time by name. pids: {name: [pid, …]}; a process
    that was replaced in between counts from its start."""

    def __init__(self, pids):
        self._pids = pids
        self._before = {p: cpu_sec(p) for found in pids().values() for p in found}

    def stop(self):
        return {name: sum(cpu_sec(p) - self._before.get(p, 0) for p in found)
                for name, found in self._pids().items()}
