"""How long it takes from power on to the floating IP, beside a bare Debian's way to its login prompt, in one run.

    python tests/bench/bench_boot.py [--runs N]

The bare image is Debian 13 with everything of the priorities required and important, the same kernel, and no more: no
cluster, no cloud-init, no SSH. Both boot in QEMU with the same machine. Ours boots from a seed, as one node and as a
pair (two machines at once, beside two bare ones at once); a client on loopback asks for a page through the floating IP
until it comes, from a real backend. One node is switched off and on again after that, and once more with cloud-init
switched off: what is left then is what Corosync, Pacemaker and HAProxy take wherever their configuration comes from.
HAPX_TEST_OVA names an OVA to take instead of baking one.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import http.server
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from builder import acceleration
from builder.command import run
from builder.seed import seeding
from builder.seed.secrets import path_beside
from builder.seed.seeding import ClusterSpec
from builder.seed.templates import Templates
from builder.spec import derived, load
from tests.e2e.image import extract_disk
from tests.e2e.vm import Cable, Controller, Firmware, Guest, Machine, start

PACKER = Path(__file__).resolve().parents[2] / "packer"
LOGIN = r"^\S+ login: "
SECONDS = 600.0
VIP = "192.168.56.10"
WANTED = 1.3
# How often a single node is switched on, and what is run on it before it is switched off again.
BOOTS = {
    "": "true",
    ", again": "touch /etc/cloud/cloud-init.disabled",
    ", again, without cloud-init": None,
}
# Machines, the processors of each, and how that is called: a node has two by default, and this machine no more.
ROWS = ((1, 2, "one machine, two CPUs"), (1, 1, "one machine, one CPU"), (2, 1, "two at once, one CPU each"))

# Debian 13's own idea of a system: its packages of priority important that are not required by others of the list,
# the kernel and the boot loaders, and a serial console to see the prompt on. An initramfs as Debian makes it.
BARE_PACKAGES = (
    *("e2fsprogs", "grub-efi-amd64-bin", "grub-pc-bin", "grub2-common", "initramfs-tools", "linux-image-amd64", "zstd"),
    *("cron", "dbus", "dhcpcd-base", "fdisk", "ifupdown", "init", "iproute2", "iputils-ping", "kmod", "less"),
    *("libpam-systemd", "logrotate", "nano", "netbase", "nftables", "procps", "systemd-sysv", "systemd-timesyncd"),
    *("tzdata", "udev", "vim-tiny", "whiptail"),
)
BARE_SCRIPTS = {
    "10-packages.sh": ":",
    "20-overlay.sh": "echo 'GRUB_TIMEOUT=1 GRUB_CMDLINE_LINUX=\"console=tty0 console=ttyS0,115200n8\"' "
    ">/etc/default/grub.d/bare.cfg",
    "30-system.sh": "echo bare >/etc/hostname",
    "40-services.sh": "systemctl enable serial-getty@ttyS0.service",
    "50-initramfs.sh": 'for kernel in /usr/lib/modules/*; do update-initramfs -u -k "${kernel##*/}"; done',
    "90-generalise.sh": ": >/etc/machine-id",
}


def spec(nodes: int, backend: int) -> str:
    """A cluster of that many nodes on QEMU's own network, whose gateway is this machine's loopback."""
    listed = "".join(
        f"  - {{name: node{n}, addresses: {{public: 192.168.56.{10 + n}, link: 10.56.0.{n}}}}}\n"
        for n in range(1, nodes + 1)
    )
    return f"""name: bench
networks:
  public: {{kind: hostonly, subnets: [192.168.56.0/24]}}
  link: {{kind: intnet, subnets: [10.56.0.0/24]}}
nodes:
{listed}vips: [{{address: {VIP}, network: public}}]
corosync: {{links: [link]}}
haproxy:
  frontends: [{{name: web, port: 80, mode: http, backend: web}}]
  backends: [{{name: web, mode: http, servers: [{{name: web1, address: 192.168.56.2, port: {backend}}}]}}]
"""


class Page(http.server.BaseHTTPRequestHandler):
    """A backend."""

    def do_GET(self) -> None:
        """Say yes."""
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815 - the name is http.server's

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def served() -> Iterator[int]:
    """A backend on loopback; its port."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


def free_port() -> int:
    """A port of loopback that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as end:
        return int(end.getsockname()[1])


def first_page(ports: list[int], began: float) -> float:
    """Seconds until a page comes through the floating IP, on whichever node it is.

    QEMU takes a connection whether its guest has the address or not, and is slow to try again: so each is a new one.
    """
    came = threading.Event()

    def ask(port: int) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            connection.request("GET", "/")
            if connection.getresponse().status == 200:
                came.set()

    while not came.wait(0.2):
        if time.monotonic() - began > SECONDS:
            raise TimeoutError(f"no page through the floating IP within {SECONDS:.0f} seconds")
        for port in ports:
            threading.Thread(target=ask, args=(port,), daemon=True).start()
    return time.monotonic() - began


def boot_bare(disk: Path, count: int, cpus: int, folder: Path) -> float:
    """Seconds until the last of so many bare machines, switched on at once, shows its login prompt."""
    with contextlib.ExitStack() as stack:
        machine = Machine(disk, Firmware.BIOS, Controller.SATA, cpus=cpus)
        guests = [stack.enter_context(start(machine, folder / f"bare{n}")) for n in range(count)]
        with ThreadPoolExecutor() as pool:
            return max(pool.map(lambda guest: guest.wait_for(LOGIN, seconds=SECONDS), guests))


def boot_ours(disk: Path, count: int, cpus: int, folder: Path) -> list[float]:
    """Seconds until a page comes through the floating IP of so many seeded nodes, switched on at once.

    Of one node alone also: each time it is switched on again (BOOTS).
    """
    took = []
    with served() as backend:
        machines, ports = seeded(disk, count, cpus, folder, backend)
        for boot, command in enumerate(BOOTS.values() if count == 1 else [None]):
            with contextlib.ExitStack() as stack:
                works = [folder / f"boot{boot}-{place}" for place in range(count)]
                began = time.monotonic()
                guests = [stack.enter_context(start(*each)) for each in zip(machines, works, strict=True)]
                try:
                    took.append(first_page(ports, began))
                finally:
                    for place, work in enumerate(works):
                        console = f"bench-boot-{boot}-{place}.console"
                        shutil.copy(work / "console", Path(tempfile.gettempdir(), console))
                if command is not None:
                    machines = [replace(machines[0], disk=switched_off(guests[0], command, works[0]))]
    return took


def seeded(disk: Path, count: int, cpus: int, folder: Path, backend: int) -> tuple[list[Machine], list[int]]:
    """So many nodes with their CDs, and the ports of loopback where each answers if it has the floating IP."""
    path = folder / "bench.yaml"
    path.write_text(spec(count, backend))
    cluster = load(path)
    request = seeding.SeedRequest((ClusterSpec(path, path_beside(path)),), (), output=folder)
    seeding.write_isos(seeding.prepare(request, Templates()))
    machines, ports = [], []
    for place, node in enumerate(cluster.nodes):
        ports.append(free_port())
        public = f"user,net=192.168.56.0/24,host=192.168.56.2,hostfwd=tcp:127.0.0.1:{ports[-1]}-{VIP}:80"
        role = "on" if place == 0 else "off"
        wire = f"stream,server={role},addr.type=unix,addr.path={folder / 'wire'}"
        cables = (
            Cable(derived.mac(cluster, node, "public"), public),
            Cable(derived.mac(cluster, node, "link"), wire if count > 1 else "user,restrict=on"),
        )
        cd = folder / f"{node.name}-cidata.iso"
        machines.append(Machine(disk, Firmware.BIOS, Controller.SATA, cables=cables, cd=cd, cpus=cpus))
    return machines, ports


def switched_off(guest: Guest, command: str, work: Path) -> Path:
    """The node's disk after its power button was pressed; the command is run before that, when its boot is done."""
    guest.read("sh", "-c", f"cloud-init status --wait >/dev/null; {command}", seconds=SECONDS)
    guest.press_power_button()
    guest.wait_until_off(seconds=SECONDS)
    disk = work.with_suffix(".raw")
    run(["qemu-img", "convert", "-O", "raw", str(work / "disk.qcow2"), str(disk)])
    return disk


def bake_bare(folder: Path) -> Path:
    """The bare Debian's disk, by the same writer."""
    template = folder / "packer"
    shutil.copytree(PACKER, template)
    (template / "packages.list").write_text("".join(f"{package}\n" for package in BARE_PACKAGES))
    shutil.rmtree(template / "files")
    excludes = template / "files/etc/dpkg/dpkg.cfg.d/hapx"
    excludes.parent.mkdir(parents=True)
    excludes.touch()
    for name, script in BARE_SCRIPTS.items():
        (template / "scripts" / name).write_text(f"#!/bin/sh\nset -eu\n{script}\n")
    argv = [sys.executable, "-m", "builder.cli", "image", "--output", "bare.ova"]
    subprocess.run(argv, cwd=folder, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    extract_disk(folder / "bare.ova", folder / "bare.raw")
    return folder / "bare.raw"


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1)
    arguments = parser.parse_args()
    prompts: dict[str, list[float]] = {}
    pages: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-boot-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        bare = bake_bare(folder)
        ours = folder / "ours.raw"
        extract_disk(ova(folder), ours)
        for place in range(arguments.runs):
            for count, cpus, machines in ROWS:
                work = folder / f"{count}-{cpus}-{place}"
                work.mkdir()
                prompts.setdefault(machines, []).append(boot_bare(bare, count, cpus, work))
                # Two nodes are switched on once: the other boots are left out.
                for boot, seconds in zip(BOOTS, boot_ours(ours, count, cpus, work), strict=False):
                    pages.setdefault(machines, {}).setdefault(boot, []).append(seconds)

    title = f"median of {arguments.runs}, {os.cpu_count()} processors, {acceleration.detect().accelerator}"
    table = Table(title=title, title_justify="left")
    for heading in ("from power on to", "seconds", "of bare", "wanted"):
        table.add_column(heading, justify="left" if heading == "from power on to" else "right")
    for machines, boots in pages.items():
        prompt = statistics.median(prompts[machines])
        table.add_row(f"login prompt of a bare Debian, {machines}", f"{prompt:.1f}", "", "")
        for boot, times in boots.items():
            page, wanted = statistics.median(times), "" if boot else f"at most {WANTED}"
            table.add_row(
                f"a page through the floating IP, {machines}{boot}", f"{page:.1f}", f"{page / prompt:.2f}", wanted
            )
    Console(width=120).print(table)


def ova(folder: Path) -> Path:
    """The OVA to boot."""
    if given := os.environ.get("HAPX_TEST_OVA"):
        return Path(given)
    argv = [sys.executable, "-m", "builder.cli", "image", "--output", str(folder / "ours.ova")]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return folder / "ours.ova"


if __name__ == "__main__":
    main()
