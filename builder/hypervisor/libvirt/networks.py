"""A host's libvirt networks: those that cards need are made, those of ours that nobody needs are removed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from xml.etree.ElementTree import Element

from builder.errors import CommandError, InputError
from builder.hypervisor import Nic
from builder.hypervisor.libvirt import network
from builder.hypervisor.libvirt.virsh import Virsh
from builder.spec.derived import Subnet
from builder.spec.model import NetworkKind


class Networks:
    """Executes what `network` plans. Its methods are for one thread at a time."""

    def __init__(self, virsh: Virsh) -> None:
        self._virsh = virsh

    def converge(self, nics: Iterable[Nic]) -> tuple[list[str], list[str]]:
        """Make what the cards need, active now and after the host's next start.

        What was changed, and what has to wait until no machine uses a network. Raises InputError for networks that are
        somebody else's and no good.
        """
        changes: list[str] = []
        later: list[str] = []
        for nic in nics:
            if nic.kind is not NetworkKind.BRIDGED:
                self._one(nic, changes, later)
        return changes, later

    def remove_unused(self) -> Sequence[str]:
        """Remove the networks of ours that no machine on this host has a card on; their names."""
        used = self._used()
        removed = []
        for name in self._virsh.names("net-list", "--all", "--name"):
            found = self._virsh.xml("net-dumpxml", "--inactive", name)
            if name in used or found is None or not _is_ours(found):
                continue
            if self._active(name):
                self._virsh.run("net-destroy", name)
            self._virsh.run("net-undefine", name)
            removed.append(name)
        return removed

    def _one(self, nic: Nic, changes: list[str], later: list[str]) -> None:
        name = network.name(nic)
        found = self._virsh.xml("net-dumpxml", "--inactive", name)
        if found is not None and not _is_ours(found):
            # Somebody's own, named in the spec: used as it is.
            if nic.kind is not NetworkKind.NAT and not network.isolated(found):
                message = f"{self._virsh.uri}: the network {name} is somebody else's, and leads out of the host"
                raise InputError(message, hint=f"give networks.{nic.network} another name in the spec")
            if not self._active(name):
                message = f"{self._virsh.uri}: the network {name} is somebody else's, and is switched off"
                raise InputError(message, hint=f"virsh --connect {self._virsh.uri} net-start {name}")
            return
        kept = network.addresses(found) if found is not None else []
        taken = (*self._subnets(), *nic.subnets) if nic.kind is NetworkKind.NAT and not kept else ()
        try:
            wanted = network.definition(nic, taken=taken, kept=kept)
        except StopIteration:
            message = f"{self._virsh.uri}: no subnet is left for a NAT network"
            raise InputError(message, hint=f"name an existing network: networks.{nic.network}.name") from None
        if found is None:
            self._virsh.take("net-define", wanted)
            changes.append(f"network {name}")
        elif network.addresses(wanted) != kept:
            if self._active(name) and name in self._used(running=True):
                later.append(f"network {name}")
                return
            if self._active(name):
                self._virsh.run("net-destroy", name)
            self._virsh.take("net-define", wanted)
            changes.append(f"network {name}")
        if not self._active(name):
            self._start(name, new=found is None)
        self._virsh.run("net-autostart", name)

    def _start(self, name: str, *, new: bool) -> None:
        try:
            self._virsh.run("net-start", name)
        except CommandError as error:
            if self._active(name):
                return  # another run was quicker
            if new:
                self._virsh.run("net-undefine", name)
            if match := re.search("[^:]* is already in use.*", " ".join(error.details)):
                message = f"{self._virsh.uri}: network {name}: {match.group().strip()}"
                hint = "choose another subnet in the spec, or name the network that has it"
                raise InputError(message, hint=hint) from None
            raise

    def _active(self, name: str) -> bool:
        return name in self._virsh.names("net-list", "--name")

    def _used(self, *, running: bool = False) -> set[str]:
        """The networks that machines, ours or not, have cards on."""
        found = (
            self._virsh.xml("dumpxml", name)
            for name in self._virsh.names("list", "--name", *(() if running else ("--all",)))
        )
        return {
            source.get("network", "")
            for each in found
            if each is not None
            for source in each.findall("devices/interface/source")
        }

    def _subnets(self) -> list[Subnet]:
        """The subnets of every network that this libvirt knows."""
        found = (
            self._virsh.xml("net-dumpxml", "--inactive", name)
            for name in self._virsh.names("net-list", "--all", "--name")
        )
        return [address.network for each in found if each is not None for address in network.addresses(each)]


def _is_ours(found: Element) -> bool:
    return found.findtext("uuid") == str(network.uuid(found.findtext("name", "")))
