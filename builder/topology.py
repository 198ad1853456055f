"""A cluster as a picture: its nodes in a row, its networks as lines below them, floating IPs beside the nodes (SVG).

Colours come from the style sheet of the page that the picture stands in.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement, indent, tostring

from builder.spec import derived
from builder.spec.model import Cluster, Node

MARGIN = 200  # for what the networks are called
COLUMN, BOX = 190, 166  # the width of a node's column, and of its box
TOP, HEIGHT = 16, 84
FIRST, ROW = TOP + HEIGHT + 52, 64  # where the first network's line is, and how far to the next


def draw(cluster: Cluster) -> str:
    """The picture, as an svg element with classes for a page's style sheet."""
    networks = list(cluster.networks)
    lines = {network: FIRST + ROW * number for number, network in enumerate(networks)}
    columns = len(cluster.nodes) + len(cluster.vips)
    width, height = MARGIN + COLUMN * columns + 10, FIRST + ROW * len(networks) - 10
    svg = Element(
        "svg",
        {"viewBox": f"0 0 {width} {height}", "width": str(width), "height": str(height), "role": "img"},
    )
    SubElement(svg, "title").text = f"Cluster {cluster.name}"
    links = {link.network: number for number, link in enumerate(derived.links(cluster))}
    for network, y in lines.items():
        kind = "bus link" if network in links else "bus"
        _line(svg, kind, (MARGIN, y), (width - 10, y))
        _text(svg, "strong", 4, y - 4, f"{network} · link {links[network]}" if network in links else network)
        _text(svg, "dim", 4, y + 13, _description(cluster, network))
    for column, node in enumerate(cluster.nodes):
        _node(svg, cluster, node, MARGIN + COLUMN * column + 12, lines)
    for column, vip in enumerate(cluster.vips, start=len(cluster.nodes)):
        x = MARGIN + COLUMN * column + 12
        middle = x + BOX // 2
        _line(svg, "wire floating", (middle, TOP + HEIGHT - 14), (middle, lines[vip.network]))
        _box(svg, "vip", x, TOP + 14, HEIGHT - 28)
        _text(svg, "strong middle", middle, TOP + 38, str(vip.address))
        _text(svg, "dim middle", middle, TOP + 56, f"floating IP {vip.name}")
        _dot(svg, "vip", middle, lines[vip.network])
    indent(svg)
    return tostring(svg, encoding="unicode")


def _node(svg: Element, cluster: Cluster, node: Node, x: int, lines: dict[str, int]) -> None:
    """One node: its box, and a wire to each network it has a card or a VLAN on."""
    step = BOX // (len(lines) + 1)
    places = {network: x + number * step for number, network in enumerate(lines, start=1)}
    for network, where in places.items():
        _line(svg, "wire", (where, TOP + HEIGHT), (where, lines[network]))
    for network, where in places.items():  # after the wires: their addresses are written over them
        y = lines[network]
        _dot(svg, "node", where, y)
        spoken = [str(each.ip) for each in derived.addresses(cluster, node, network)]
        if not spoken and cluster.networks[network].dhcp:
            spoken = ["DHCP"]
        _text(svg, "address", where + 6, y - 7, ", ".join(spoken))
    _box(svg, "node", x, TOP, HEIGHT)
    middle = x + BOX // 2
    _text(svg, "strong middle", middle, TOP + 24, node.name)
    cpus = derived.cpus(cluster, node)
    size = f"{cpus} CPU{'' if cpus == 1 else 's'}, {derived.memory_mib(cluster, node)} MiB"
    _text(svg, "dim middle", middle, TOP + 44, f"node {derived.node_id(cluster, node)}: {size}")
    _text(svg, "dim middle", middle, TOP + 62, _short(node.host or "on this machine", 25))


def _description(cluster: Cluster, network: str) -> str:
    """What kind of network it is, and its subnets."""
    known = cluster.networks[network]
    kind = f"VLAN {known.vlan} on {known.parent}" if known.vlan is not None else str(known.kind or "")
    return _short(" · ".join(filter(None, (kind, ", ".join(map(str, known.subnets))))), 32)


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _line(svg: Element, kind: str, start: tuple[int, int], end: tuple[int, int]) -> None:
    places = zip(("x1", "y1", "x2", "y2"), (*start, *end), strict=True)
    SubElement(svg, "line", {"class": kind, **{name: str(value) for name, value in places}})


def _box(svg: Element, kind: str, x: int, y: int, height: int) -> None:
    sizes = {"x": x, "y": y, "width": BOX, "height": height, "rx": 8}
    SubElement(svg, "rect", {"class": kind, **{name: str(value) for name, value in sizes.items()}})


def _dot(svg: Element, kind: str, x: int, y: int) -> None:
    SubElement(svg, "circle", {"class": kind, "cx": str(x), "cy": str(y), "r": "5"})


def _text(svg: Element, kind: str, x: int, y: int, text: str) -> None:
    SubElement(svg, "text", {"class": kind, "x": str(x), "y": str(y)}).text = text
