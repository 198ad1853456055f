"""How the versions of VirtualBox differ in what VBoxManage takes: one table.

6.1 knows the old names of modifyvm's flags only. 7.0 brought new ones, in the manual's spelling, and takes the old ones
still; 7.1 and 7.2 changed none of those used here.
"""

from __future__ import annotations

from dataclasses import dataclass

OLDEST = (6, 1)


@dataclass(frozen=True, slots=True)
class Dialect:
    """The flags of modifyvm that were renamed, without the number of their card or port, and what else is new."""

    nic_type: str = "--nic-type"
    mac: str = "--mac-address"
    cable: str = "--cable-connected"
    promiscuous: str = "--nic-promisc"
    bridge: str = "--bridge-adapter"
    host_only: str = "--host-only-adapter"
    uart_mode: str = "--uart-mode"
    cpu_hotplug: str = "--cpu-hotplug"
    networks_on_macos: bool = True
    """Whether macOS has host-only networks (hostonlynet) in place of interfaces: since 7.0."""


_OLD = Dialect(
    nic_type="--nictype",
    mac="--macaddress",
    cable="--cableconnected",
    promiscuous="--nicpromisc",
    bridge="--bridgeadapter",
    host_only="--hostonlyadapter",
    uart_mode="--uartmode",
    cpu_hotplug="--cpuhotplug",
    networks_on_macos=False,
)


def of(version: tuple[int, int]) -> Dialect:
    """The dialect of a version: major and minor number."""
    return _OLD if version < (7, 0) else Dialect()
