"""Host-only networks: the host's interface with an address in the subnet, made where there is none.

VirtualBox names interfaces itself (vboxnet0, …); which were made for which cluster stands in its global extra data.
On macOS, VirtualBox 7 has host-only networks with names of our choice in place of interfaces.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Sequence
from ipaddress import IPv4Interface

from builder import interrupts
from builder.errors import HapxError, InputError
from builder.hypervisor import Nic
from builder.hypervisor.virtualbox import reading, said
from builder.hypervisor.virtualbox.manage import Manage
from builder.hypervisor.virtualbox.reading import HostOnly, Interface
from builder.hypervisor.wanted import host_address
from builder.spec.model import NetworkKind

KEY = "hapx/hostonly/"

_CREATED = re.compile(r"Interface '(?P<name>[^']+)' was successfully created")
_MARKED = re.compile(r"^Key: hapx/hostonly/(?P<name>\S+), Value: (?P<cluster>\S+)$", re.MULTILINE)


class HostOnlyNetworks:
    """The host-only networks of one host. May be used by several threads at once."""

    def __init__(self, manage: Manage) -> None:
        self._manage = manage
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], tuple[str, str]] = {}

    def resolve(self, cluster: str, nics: Sequence[Nic]) -> dict[str, tuple[str, str]]:
        """Kind and name on the host for each host-only network of a machine, made where missing."""
        found = {}
        with self._lock:
            for nic in nics:
                if nic.kind is NetworkKind.HOSTONLY:
                    key = (cluster, nic.network)
                    if key not in self._known:
                        self._known[key] = self._resolve(cluster, nic)
                    found[nic.network] = self._known[key]
        return found

    def remove(self, cluster: str) -> list[str]:
        """Remove the interfaces that were made for a cluster and that no machine is plugged into; their names."""
        marked = self._manage.run("getextradata", "global", "enumerate").stdout
        names = [match["name"] for match in _MARKED.finditer(marked) if match["cluster"] == cluster]
        if not names:
            return []
        machines = self._manage.run("list", "--long", "vms").stdout
        there = {each.name for each in self._interfaces()}
        removed = []
        for name in names:
            if re.search(rf"Host-only (Interface|Network) '{re.escape(name)}'", machines):
                continue
            if name in there:
                noun = ["hostonlynet", "remove", f"--name={name}"] if self._networks else ["hostonlyif", "remove", name]
                self._manage.run(*noun)
                removed.append(name)
            self._manage.run("setextradata", "global", f"{KEY}{name}")
        with self._lock:
            self._known.clear()
        return removed

    @property
    def _networks(self) -> bool:
        return self._manage.dialect.networks_on_macos and self._manage.system == "Darwin"

    def _interfaces(self) -> list[HostOnly]:
        if self._networks:
            return reading.host_only_networks(self._manage.run("list", "hostonlynets").stdout)
        return reading.host_only(self._manage.run("list", "hostonlyifs").stdout)

    def _resolve(self, cluster: str, nic: Nic) -> tuple[str, str]:
        addresses = [host_address(subnet) for subnet in nic.subnets]
        there = self._interfaces()
        kind = "hostonlynet" if self._networks else "hostonly"
        if nic.name is not None:
            named = next((each for each in there if each.name == nic.name), None)
            if named is not None:
                if addresses and named.addresses and not fits(named, addresses):
                    has = ", ".join(map(str, named.addresses))
                    raise InputError(
                        f"networks.{nic.network}: {nic.name} on {self._manage.where} has {has}",
                        hint="name another one, or none: then the one that fits is taken, or made",
                    )
                return kind, nic.name
        elif fitting := next((each for each in there if not addresses or fits(each, addresses)), None):
            return kind, fitting.name
        made = self._make_network(cluster, nic, addresses) if self._networks else self._make(cluster, nic, addresses)
        return kind, made

    def _make(self, cluster: str, nic: Nic, addresses: Sequence[Interface]) -> str:
        created = self._manage.run("hostonlyif", "create")
        match = _CREATED.search(created.stdout)
        if match is None:
            raise HapxError(
                f"{self._manage.where}: no host-only interface was made", details=created.stdout.splitlines()
            )
        name = match["name"]
        try:
            self._manage.run("setextradata", "global", f"{KEY}{name}", cluster)
            if nic.name not in (None, name):
                raise InputError(
                    f"networks.{nic.network}: there is no {nic.name} on {self._manage.where}",
                    hint=f"VirtualBox names its interfaces itself, the next is {name}: leave `name` out",
                )
            # An interface takes one address of each IP version.
            for address in {each.version: each for each in reversed(addresses)}.values():
                self._configure(name, address)
        except BaseException:
            with interrupts.held(), contextlib.suppress(HapxError):
                self._manage.run("hostonlyif", "remove", name)
                self._manage.run("setextradata", "global", f"{KEY}{name}")
            raise
        return name

    def _configure(self, name: str, address: Interface) -> None:
        if isinstance(address, IPv4Interface):
            flags = [f"--ip={address.ip}", f"--netmask={address.netmask}"]
        else:
            flags = [f"--ipv6={address.ip}", f"--netmasklengthv6={address.network.prefixlen}"]
        result = self._manage.run("hostonlyif", "ipconfig", name, *flags, check=False)
        if result.returncode != 0:
            raise said.error(result, self._manage.where, subnet=str(address.network))

    def _make_network(self, cluster: str, nic: Nic, addresses: Sequence[Interface]) -> str:
        name = nic.name or f"hapx-{cluster}-{nic.network}"
        address = next((each for each in addresses if isinstance(each, IPv4Interface)), None)
        if address is None:
            raise InputError(
                f"networks.{nic.network}: a host-only network on macOS needs an IPv4 subnet", hint="give it one"
            )
        # The host takes the lowest address of the range (VirtualBox's manual, hostonlynet).
        last = address.network[-2]
        bounds = [f"--netmask={address.netmask}", f"--lower-ip={address.ip}", f"--upper-ip={last}"]
        self._manage.run("setextradata", "global", f"{KEY}{name}", cluster)
        self._manage.run("hostonlynet", "add", f"--name={name}", *bounds, "--enable")
        return name


def fits(found: HostOnly, addresses: Sequence[Interface]) -> bool:
    """Whether an interface is in one of the subnets that it should be in."""
    return any(has.network == address.network for has in found.addresses for address in addresses)
