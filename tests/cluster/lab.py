"""A cluster in a world of its own: nodes from one baked root with the seeds of one spec, and who watches them.

Two switches join the nodes: `public`, with the clients, the web servers and the floating IP, and `link`. A third,
`outside`, is there without anybody on it: the nodes ask for an address by DHCP, and for time and names, in vain.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from builder.seed.documents import documents
from builder.seed.secrets import load as load_secrets
from builder.seed.templates import Templates
from builder.spec import derived, load
from builder.spec.model import Cluster
from tests.cluster import container, world
from tests.cluster.container import Card, Container
from tests.cluster.observers import Backends, Client, Owned, Owners, wait_until
from tests.cluster.world import World

PREFIX = "hapx-lab"
_NUMBERS = itertools.count(1)
BRIDGES = {"public": "public", "link": "link", "outside": "outside"}
BRIDGE_MAC = "02:00:00:00:00:01"
CLIENT = "192.0.2.1"
VIP = "192.0.2.10"
SERVERS = (("web1", "192.0.2.101", 8001), ("web2", "192.0.2.102", 8002))
# A boot takes three seconds here, and Pacemaker a few more to choose a DC; the rest is for a busy machine.
FORM_SECONDS = 90.0
SETTLE_SECONDS = 60.0
LINKS_SECONDS = 12.0


def spec(nodes: int = 2) -> dict[str, Any]:
    """The spec of the tests' cluster, as plain values; its addresses are those of examples (RFC 5737)."""
    return {
        "name": "hapx",
        "networks": {
            "public": {"kind": "hostonly", "subnets": ["192.0.2.0/24"]},
            "link": {"kind": "intnet", "subnets": ["198.51.100.0/24"]},
            "outside": {"kind": "nat", "dhcp": True},
        },
        "nodes": [
            {
                "name": f"node{number}",
                "addresses": {"public": f"192.0.2.{10 + number}", "link": f"198.51.100.{10 + number}"},
            }
            for number in range(1, nodes + 1)
        ],
        "vips": [{"address": VIP, "network": "public"}],
        "corosync": {"links": ["public", "link"]},
        "haproxy": {
            # No more files than a machine that tests may open.
            "maxconn": 400,
            "frontends": [{"name": "web", "port": 80, "mode": "http", "backend": "web"}],
            "backends": [
                {
                    "name": "web",
                    "mode": "http",
                    "check": "inter 500ms fall 2 rise 1",
                    "servers": [{"name": name, "address": address, "port": port} for name, address, port in SERVERS],
                }
            ],
        },
    }


@dataclass(frozen=True, slots=True)
class State:
    """The cluster as one node sees it."""

    dc: str | None
    quorate: bool
    online: frozenset[str]
    resources: dict[str, tuple[str, ...]]
    failures: dict[str, int]
    unclean: tuple[str, ...] = ()


@dataclass
class Lab:
    """A cluster, and those who watch it."""

    world: World
    root: Path
    values: dict[str, Any]
    nodes: dict[str, Container] = field(default_factory=dict)
    client: Client = None  # type: ignore[assignment]
    owners: Owners = None  # type: ignore[assignment]
    backends: Backends = None  # type: ignore[assignment]

    @property
    def cluster(self) -> Cluster:
        """The spec of now."""
        path = self.world.folder / "cluster.yaml"
        path.write_text(json.dumps(self.values))
        return load(path)

    def seeds(self, values: dict[str, Any] | None = None) -> dict[str, dict[str, bytes]]:
        """Each node's documents, for this spec instead where one is given: from then on it is the cluster's."""
        if values is not None:
            self.values = copy.deepcopy(values)
        secrets = load_secrets(self.world.folder / "cluster.secrets.yaml")
        made = documents(self.cluster, secrets, Templates(self.world.folder / "templates"))
        return {each.host: each.encoded() for each in made}

    def anew(self, values: dict[str, Any] | None = None) -> None:
        """Everything off, every disk new, with the seeds of this spec (by default of the spec of now)."""
        for node in self.nodes.values():
            node.power_off()
            node.new_disk()
        for name, texts in self.seeds(values).items():
            self.nodes[name].seed(texts)

    # Nodes

    @property
    def running(self) -> list[Container]:
        """The nodes that are on."""
        return [node for node in self.nodes.values() if node.is_on]

    def start(self, *names: str) -> None:
        """Switch nodes on (without names: all of the spec's that are off)."""
        for name in names or [each["name"] for each in self.values["nodes"]]:
            if not self.nodes[name].is_on:
                self.nodes[name].start()

    @property
    def owner(self) -> Container:
        """The node with the floating IP; there has to be exactly one."""
        (name,) = self.owners.now()
        return self.nodes[name]

    @property
    def other(self) -> Container:
        """A node that is on and does not have it."""
        return next(node for node in self.running if node.name not in self.owners.now())

    # State

    def state(self, node: Container) -> State | None:
        """The cluster as a node sees it, None where Pacemaker does not answer there."""
        try:
            result = node.run("crm_mon", "--one-shot", "--inactive", "--output-as=xml", check=False, timeout=20)
        except ProcessLookupError:
            return None
        return read_state(result.stdout) if result.returncode == 0 else None

    def cib(self, node: Container) -> ET.Element:
        """The CIB as a node has it."""
        return ET.fromstring(node.run("cibadmin", "--query").stdout)

    def epoch(self, node: Container | None = None) -> int:
        """The CIB's epoch, by the owner's copy."""
        return int(self.cib(node or self.owner).get("epoch", "0"))

    def trouble(self) -> str:
        """Why it is not settled; empty where it is: all that are on belong to it, one has the VIP, all agree."""
        running = {node.name for node in self.running}
        states = {}
        for node in self.running:
            state = self.state(node)
            if state is None:
                return f"{node.name}: Pacemaker does not answer"
            states[node.name] = state
            if state.dc is None or not state.quorate:
                return f"{node.name}: DC {state.dc}, quorate: {state.quorate}"
            if state.online != running:
                return f"{node.name} sees {sorted(state.online)} online, not {sorted(running)}"
            if state.unclean:
                return f"{node.name} sees {state.unclean} pending or unclean"
            if len(state.resources.get("vip", ())) != 1:
                return f"{node.name} sees the VIP on {state.resources.get('vip')}"
            if set(state.resources.get("haproxy", ())) != running:
                return f"{node.name} sees HAProxy on {state.resources.get('haproxy')}"
            if state.failures:
                return f"{node.name} sees failures: {state.failures}"
        if len({(state.dc, state.resources["vip"]) for state in states.values()}) != 1:
            return f"the nodes disagree: {states}"
        dc = next(iter(states.values())).dc
        said = self.nodes[str(dc)].run("crmadmin", "--status", str(dc), check=False).stdout
        if "S_IDLE" not in said:
            return f"the DC is at work: {said.strip()}"
        digests = {node.name: node.run("cibadmin", "--query", "--scope=configuration").stdout for node in self.running}
        if len(set(digests.values())) != 1:
            return "the nodes' CIBs differ"
        versions = {tuple(self.cib(node).get(key) for key in ("admin_epoch", "epoch")) for node in self.running}
        if len(versions) != 1:
            return f"the nodes' CIBs have different epochs: {versions}"
        if self.owners.now() != states[str(dc)].resources["vip"]:
            return f"{self.owners.now()} have the address, Pacemaker sees it on {states[str(dc)].resources['vip']}"
        return ""

    def wait_settled(self, seconds: float = SETTLE_SECONDS) -> float:
        """Wait until the cluster is settled and serves; returns how long that took in seconds."""
        began = time.monotonic()
        said = ["never looked"]

        def settled() -> bool:
            said[:] = [self.trouble()]
            return not said[0]

        try:
            wait_until(settled, seconds, "a settled cluster", every=0.5)
        except AssertionError as error:
            raise AssertionError(f"{error}: {said[0]}\n{self.words()}") from None
        self.client.wait_served(time.monotonic(), 10, streak=0.3)
        return time.monotonic() - began

    def wait_nodes(self, seconds: float) -> None:
        """Wait until Pacemaker has a DC and sees every node that is on."""
        names = {node.name for node in self.running}

        def there() -> bool:
            states = [self.state(node) for node in self.running]
            return all(state is not None and state.dc is not None and state.online == names for state in states)

        wait_until(there, seconds, "all nodes online", every=0.5)

    def wait_links(self) -> None:
        """Wait until knet notices in time that a link is lost: it is more patient with one that has just come up, ten
        times at first and a second later nine times."""

        def awake() -> bool:
            shown = [
                node.run("systemctl", "show", "--value", "--property=ActiveEnterTimestampMonotonic", "corosync").stdout
                for node in self.running
            ]
            latest = max(*(int(since) / 1e6 for since in shown), *(node.plugged for node in self.running))
            return time.monotonic() - latest > LINKS_SECONDS

        wait_until(awake, 2 * LINKS_SECONDS, "knet's patience with new links is over", every=0.2)

    def ring(self) -> str:
        """What the owner's Corosync calls the present membership: another name after each loss of a node."""
        said = self.owner.run("corosync-quorumtool", "-s", check=False).stdout
        (line,) = [line for line in said.splitlines() if line.startswith("Ring ID:")]
        return line.split()[-1]

    def forget_failures(self) -> None:
        """Clean the failures away that a test has made, instead of waiting a minute until they expire."""
        self.running[0].run("crm_resource", "--cleanup", check=False)

    def words(self) -> str:
        """What there is to see where something went wrong."""
        said = []
        for node in self.running:
            with contextlib.suppress(ProcessLookupError, OSError):
                look = "crm_mon -1rf 2>&1; journalctl --no-pager -p notice -n 25 -o short-precise; systemctl --failed"
                said.append(f"--- {node.name}\n{node.sh(look, check=False)}")
        return "\n".join(said)

    # Invariants

    def assert_one_owner(self, since: float, *, windows: Sequence[tuple[float, float]] = ()) -> None:
        """At no time since then had two nodes the address, but for the windows that are stated."""
        for span in self.owners.history(since):
            if len(span.nodes) > 1:
                assert any(began <= span.began and span.ended <= ended for began, ended in windows), (
                    f"{span.nodes} had the address together for {span.ended - span.began:.2f} s: "
                    f"{[_told(each, since) for each in self.owners.history(since)]}"
                )


def _told(span: Owned, since: float) -> str:
    return f"{span.began - since:.2f}-{span.ended - since:.2f} {'+'.join(span.nodes) or 'nobody'}"


def read_state(text: str) -> State:
    """What `crm_mon --output-as=xml` says."""
    root = ET.fromstring(text)
    dc = root.find("summary/current_dc")
    nodes = root.findall("nodes/node")
    resources: dict[str, list[str]] = {}
    for resource in root.iter("resource"):
        if resource.get("role") in {"Started", "Promoted", "Unpromoted"} and resource.get("failed") != "true":
            where = [str(node.get("name")) for node in resource.findall("node")]
            resources.setdefault(str(resource.get("id")).partition(":")[0], []).extend(where)
    failures = {}
    for node in root.findall("node_history/node"):
        for history in node.findall("resource_history"):
            if count := history.get("fail-count", "0"):
                number = 1_000_000 if count == "INFINITY" else int(count)
                if number:
                    failures[f"{history.get('id')} on {node.get('name')}"] = number
    odd = [
        str(node.get("name"))
        for node in nodes
        if "true" in (node.get("unclean"), node.get("pending"), node.get("standby"), node.get("maintenance"))
    ]
    return State(
        dc=dc.get("name") if dc is not None and dc.get("present") == "true" else None,
        quorate=dc is not None and dc.get("with_quorum") == "true",
        online=frozenset(str(node.get("name")) for node in nodes if node.get("online") == "true"),
        resources={name: tuple(sorted(where)) for name, where in resources.items()},
        failures=failures,
        unclean=tuple(odd),
    )


@contextlib.contextmanager
def create(root: Path, folder: Path, values: dict[str, Any] | None = None, *, size: int | None = None) -> Iterator[Lab]:
    """A cluster of a spec from a baked root, seeded and switched off; `size`: places for nodes that come later."""
    values = values or spec()
    container.tidy(PREFIX)
    cgroup = f"{PREFIX}-{os.getpid()}-{next(_NUMBERS)}"
    (folder / "templates").mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: [container.remove_cgroup(base / cgroup) for base in container.hierarchies()])
        place = stack.enter_context(world.create(folder))
        for bridge in BRIDGES.values():
            # Its address is given: else it would be the lowest of its ports', another one whenever ports come and go.
            make = f"link add name {bridge} address {BRIDGE_MAC} type bridge forward_delay 0 stp_state 0"
            place.ip(make, f"link set dev {bridge} up")
        place.ip(*(f"address add {each}/24 dev public" for each in (CLIENT, *(address for _, address, _ in SERVERS))))
        lab = Lab(place, root, values)
        everybody = spec(size) if size else values
        (folder / "everybody.yaml").write_text(json.dumps({**values, "nodes": everybody["nodes"]}))
        whole = load(folder / "everybody.yaml")
        macs: dict[str, str] = {}
        for node in whole.nodes:
            cards = [
                Card(name, derived.mac(whole, node, name), derived.interface(whole, name))
                for name in derived.cards(whole)
            ]
            lab.nodes[node.name] = Container(place, node.name, root, cards, cgroup)
            macs |= {card.mac: node.name for card in cards if card.bridge == "public"}
        for name, texts in lab.seeds().items():
            lab.nodes[name].seed(texts)
        lab.backends = Backends(place, SERVERS)
        stack.callback(lab.backends.stop)
        lab.owners = Owners(place, VIP, BRIDGES["public"], macs)
        stack.callback(lab.owners.stop)
        lab.client = Client(place, VIP)
        stack.callback(lab.client.stop)
        stack.callback(lambda: [node.power_off() for node in lab.nodes.values()])
        yield lab
