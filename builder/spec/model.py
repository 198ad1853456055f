"""The cluster spec, as types: what may stand in a cluster.yaml, with every default. Cross checks are in `checks`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from builder.spec.scalars import (
    ACCOUNT,
    CLUSTER_NAME,
    DEVICE,
    HOST_URI,
    MACHINE,
    STATS_USER,
    TIME_ZONE,
    Address,
    Address6,
    Addresses,
    DomainName,
    Duration,
    HostAddress,
    HostName,
    Line,
    Mac,
    Name,
    Port,
    Subnet,
    Words,
)


class Part(BaseModel):
    """What every part of a spec is: fixed once read, and without anything that nobody knows."""

    # The docstrings below the fields become descriptions in `schema`, which reads them from the source: having pydantic
    # do so takes 25 ms of every start.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class NetworkKind(StrEnum):
    """What a network card is plugged into, in VirtualBox's words."""

    NAT = "nat"
    INTNET = "intnet"
    HOSTONLY = "hostonly"
    BRIDGED = "bridged"


class Network(Part):
    """A network: one card of each node, or a VLAN on another network's card."""

    kind: NetworkKind | None = None
    """What the card is plugged into; left out for a VLAN."""
    name: Annotated[str, Field(pattern=DEVICE, max_length=200)] | None = None
    """The internal network's, host-only interface's or bridge's name on the host; by default the network's own."""
    vlan: Annotated[int, Field(ge=1, le=4094)] | None = None
    """VLAN id (IEEE 802.1Q); then `parent` says on which network."""
    parent: Name | None = None
    """The network whose card carries this VLAN."""
    subnets: tuple[Subnet, ...] = ()
    """Its subnets, IPv4 and IPv6; nodes' addresses and VIPs lie in them."""
    dhcp: bool = False
    """Whether nodes take their address by DHCP; never on a network that is a Corosync link."""
    gateway: Address | None = None
    """Default route."""
    gateway6: Address6 | None = None
    """Default route for IPv6, beside one for IPv4."""
    dns: tuple[Address, ...] = ()
    """Name servers."""
    search: tuple[DomainName, ...] = ()
    """Domains that short names are looked up in."""
    mtu: Annotated[int, Field(ge=576, le=9216)] | None = None
    """Largest packet in bytes."""
    adapter: Literal["e1000", "virtio", "vmxnet3"] = "virtio"
    """The network card that the node sees."""


class Disk(Part):
    """An additional disk of a node."""

    size_mib: Annotated[int, Field(ge=1, le=2**26)]
    """Size in MiB."""
    name: Name | None = None
    """By default disk1, disk2, …"""


class Firmware(StrEnum):
    """What starts a virtual machine's boot loader."""

    BIOS = "bios"
    UEFI = "uefi"


class Node(Part):
    """A member of the cluster."""

    name: HostName
    """Host name, and the virtual machine's name."""
    id: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    """Corosync's node id; by default the node's place in the list, from 1."""
    addresses: dict[Name, Addresses] = {}
    """Its address, or addresses, on the networks without DHCP; always a tuple once read."""
    macs: dict[Name, Mac] = {}
    """MAC addresses of its cards by network; derived from cluster, node and network where left out."""
    cpus: Annotated[int, Field(ge=1, le=64)] | None = None
    """Virtual processors; by default `machine.cpus`."""
    memory_mib: Annotated[int, Field(ge=512, le=2**20)] | None = None
    """Memory in MiB; by default `machine.memory_mib`."""
    firmware: Firmware | None = None
    """bios or uefi; by default `machine.firmware`."""
    disks: tuple[Disk, ...] = ()
    """Additional disks."""
    host: Annotated[str, Field(pattern=HOST_URI, max_length=1000)] | None = None
    """The hypervisor host it runs on: ssh://user@host, or a libvirt URI; by default this machine."""


class Machine(Part):
    """What every node's virtual machine has unless the node says otherwise."""

    cpus: Annotated[int, Field(ge=1, le=64)] = 2
    """Virtual processors."""
    memory_mib: Annotated[int, Field(ge=512, le=2**20)] = 1024
    """Memory in MiB."""
    firmware: Firmware = Firmware.BIOS
    """bios, or uefi without Secure Boot; the image starts under both."""


class Vip(Part):
    """A floating IP."""

    address: Address
    """The address."""
    network: Name
    """The network it lives on; its prefix length is that of the subnet it lies in."""
    name: Name = "vip"
    """Its resource's name in Pacemaker."""


class QdeviceAlgorithm(StrEnum):
    """Who gets the quorum device's votes when the nodes no longer see each other."""

    FFSPLIT = "ffsplit"
    LMS = "lms"


class Qdevice(Part):
    """A quorum device: corosync-qnetd on a machine that is no node, which decides which side of a split goes on."""

    host: Address
    """The address of the machine that corosync-qnetd runs on."""
    port: Port = 5403
    """Its TCP port."""
    algorithm: QdeviceAlgorithm | None = None
    """ffsplit: one half goes on, for an even number of nodes; lms: the last node goes on; by default what fits."""
    tls: bool = True
    """Whether the nodes prove who they are by a certificate, the secret `qdevice_certificate`, and qnetd by its own."""


class Corosync(Part):
    """Membership: links and timings."""

    links: Annotated[tuple[Name, ...], Field(min_length=1, max_length=8)]
    """Networks that carry the cluster's own traffic, first link first; knet takes up to 8."""
    token: Annotated[int, Field(ge=300, le=60_000)] = 1000
    """Milliseconds without a token until a node counts as lost, however many nodes there are."""
    consensus: Annotated[int, Field(ge=200, le=120_000)] | None = None
    """Milliseconds to agree on a membership; by default 200 for two nodes, for more 1.2 tokens (corosync.conf(5))."""
    port: Port = 5405
    """UDP port of the first link; the next ones count up."""
    qdevice: Qdevice | None = None
    """A quorum device, so that of two halves only one goes on; by default either of two nodes does."""


class HaproxyMode(StrEnum):
    """How HAProxy treats a connection."""

    TCP = "tcp"
    HTTP = "http"


class Server(Part):
    """One server behind HAProxy."""

    name: Name
    """Its name on the stats page."""
    address: HostAddress
    """IP address or host name."""
    port: Port
    """TCP port."""
    options: Words = ""
    """More words for its `server` line ("weight 10", "backup")."""


class Backend(Part):
    """A backend: servers that share the load."""

    name: Name
    """Its name."""
    mode: HaproxyMode = HaproxyMode.TCP
    """tcp or http."""
    balance: Line = "roundrobin"
    """HAProxy's balance algorithm."""
    servers: Annotated[tuple[Server, ...], Field(min_length=1)]
    """The servers."""
    check: Words = "inter 2s fall 3 rise 2"
    """Words after `check` for every server; empty: no health checks."""
    options: tuple[Line, ...] = ()
    """More lines for the backend, as HAProxy has them ("option httpchk GET /healthz")."""


class Frontend(Part):
    """A frontend: where clients connect to."""

    name: Name
    """Its name."""
    port: Port
    """TCP port, on every VIP."""
    mode: HaproxyMode = HaproxyMode.TCP
    """tcp or http."""
    backend: Name
    """The backend that serves it."""
    options: tuple[Line, ...] = ()
    """More lines for the frontend, as HAProxy has them."""


class Stats(Part):
    """HAProxy's statistics page and Prometheus metrics, behind generated credentials."""

    port: Port = 32700
    """TCP port."""
    user: Annotated[str, Field(pattern=STATS_USER)] = "hapx"
    """User name; its password is generated."""
    allow: tuple[Subnet, ...] = ()
    """From where; by default from the cluster's own subnets."""


class Arrangement(StrEnum):
    """What HAProxy is to Pacemaker."""

    CLONE = "clone"
    PRIMITIVE = "primitive"


class Haproxy(Part):
    """What HAProxy does: frontends and backends, or a configuration of the user's own."""

    arrangement: Arrangement = Arrangement.CLONE
    """clone: HAProxy is ready on every node, only VIPs move; primitive: it runs where the VIPs are, and moves too."""

    frontends: tuple[Frontend, ...] = ()
    """Where clients connect to."""
    backends: tuple[Backend, ...] = ()
    """Where their connections go."""
    stats: Stats | None = Field(default_factory=Stats)
    """The statistics page; null: none."""
    config: Line | None = None
    """A haproxy.cfg or jinja2 template of the user's own (path relative to the spec), instead of all of the above."""
    maxconn: Annotated[int, Field(ge=1, le=1_000_000)] = 10000
    """Connections at a time."""
    client_timeout: Duration = "1h"
    """Idle time of a client's TCP connection; long, because watches and logs are."""
    server_timeout: Duration = "1h"
    """The same towards a server."""


class FenceAgent(StrEnum):
    """The program that powers a node's machine off, over SSH to its host."""

    VBOX = "fence_vbox"
    VIRSH = "fence_virsh"


class FencingHost(Part):
    """A hypervisor's host, as the nodes reach it."""

    address: Address
    """Its address."""
    port: Port = 22
    """The port of its SSH server."""
    user: Annotated[str, Field(pattern=ACCOUNT)]
    """Who may power the machines off there: root for fence_virsh, the machines' owner for fence_vbox."""
    host_key: str
    """Its SSH server's public key, or a path to it: another server is not believed."""
    machines: dict[HostName, Annotated[str, Field(pattern=MACHINE)]] = {}
    """Its nodes, each with its machine's name or UUID there; by default all nodes, each called as it is."""


class Fencing(Part):
    """Powering off a node that is lost, before its floating IP is taken over."""

    agent: FenceAgent
    """fence_vbox for VirtualBox, fence_virsh for libvirt."""
    hosts: Annotated[dict[Name, FencingHost], Field(min_length=1)]
    """The hosts that the nodes' machines run on, by a name of your choice."""
    delay: Annotated[int, Field(ge=0, le=60)] = 5
    """Seconds by which, of two nodes, the one that holds no floating IP shoots later: one of the two is left."""


class Ssh(Part):
    """Who may log in."""

    keys: tuple[str, ...] = ()
    """Public keys of the administrator, each a key or a path (~ and relative to the spec)."""
    trusted_ca: tuple[str, ...] = ()
    """Public keys of certificate authorities whose user certificates are accepted, each a key or a path."""


class User(Part):
    """An account on the nodes."""

    name: Annotated[str, Field(pattern=ACCOUNT)] = "debian"
    """Its name."""
    keys: tuple[str, ...] = ()
    """Public keys beside `ssh.keys`."""
    sudo: bool = True
    """Whether it may do everything without a password."""


class Cluster(Part):
    """A cluster spec."""

    name: Annotated[str, Field(pattern=CLUSTER_NAME)]
    """The cluster's name: Corosync's cluster_name, and what its machines are grouped under."""
    domain: DomainName | None = None
    """Domain of the nodes' names."""
    machine: Machine = Field(default_factory=Machine)
    """Defaults for the nodes' machines."""
    networks: Annotated[dict[Name, Network], Field(min_length=1)]
    """Networks by name, in the order of the cards."""
    nodes: Annotated[tuple[Node, ...], Field(min_length=1, max_length=16)]
    """The members."""
    vips: tuple[Vip, ...] = ()
    """Floating IPs; the first is the cluster's own."""
    corosync: Corosync
    """Membership."""
    haproxy: Haproxy = Field(default_factory=Haproxy)
    """Load balancing."""
    fencing: Fencing | None = None
    """Fencing; by default none: two nodes that lose sight of each other both hold the floating IP until it is back."""
    ssh: Ssh = Field(default_factory=Ssh)
    """Who may log in."""
    users: Annotated[tuple[User, ...], Field(min_length=1)] = Field(default_factory=lambda: (User(),))
    """Accounts; the first is the administrator's."""
    time_servers: tuple[HostAddress, ...] = ()
    """NTP servers; by default Debian's pool."""
    timezone: Annotated[str, Field(pattern=TIME_ZONE)] = "Etc/UTC"
    """Time zone (tz database)."""
    hosts: dict[DomainName, Address] = {}
    """More names for /etc/hosts on every node."""
