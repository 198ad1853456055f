"""The CIB that is, and the payload of a seed -> the CIB that is to be. Pure.

What is ours is known by its id. The CIB itself keeps a list of the ids that came from the seed applied last, so that a
node without any memory of it (made again from its image, say) still knows what to take away when the next seed no
longer has it. Everything else is the operators': resources, constraints and properties under other ids, what they add
within ours (a target-role, a group around it), and the nodes' attributes (standby). It stays.

Beside the list stands the generation of the seed applied last, and those before it: see `due`.
"""

from __future__ import annotations

import base64
import binascii
import copy
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree as ET

STAMP = "hapx-seed"
_GENERATION, _HISTORY, _IDS = "hapx-generation", "hapx-history", "hapx-ids"
# As many generations are remembered: a node that was off for longer than so many changes is not expected.
_REMEMBERED = 32
# The attributes by which constraints name resources (constraints-*.rng).
_REFERENCES = ("rsc", "with-rsc", "first", "then")
# What has another element's id.
_POINTERS = {"resource_ref", "obj_ref", "role_ref"}
# Resources of resources, and what there has to be in them.
_WRAPPERS = {"clone", "master", "group"}
_MEMBERS = {"primitive", "template", "group"}


@dataclass(frozen=True, slots=True)
class Stamp:
    """What the CIB says of seeds: the generation applied last, all that ever were, the ids of the last."""

    generation: str | None
    history: tuple[str, ...]
    ids: frozenset[str]


@dataclass(frozen=True, slots=True)
class Merged:
    """The CIB that is to be, and in words what goes beside what the seed says, which somebody may miss."""

    cib: ET.Element
    changed: bool
    notes: tuple[str, ...]


def due(stamp: Stamp, generation: str) -> bool:
    """Whether a node that boots with a seed of this generation is to apply it: only if it is new to the cluster.

    A generation that the cluster runs needs nothing. One that it ran before is older than what it runs: the node
    missed a change (its CD is the old one, or it was made again from it), and must not undo it for all. `hapx
    reconcile`, called by a person, asks nothing of the kind: it applies what it is given.
    """
    return generation not in stamp.history


def parse(text: str) -> ET.Element:
    """A CIB, comments and all; raises ET.ParseError."""
    return ET.fromstring(text, ET.XMLParser(target=ET.TreeBuilder(insert_comments=True)))  # noqa: S314 - root's own


def stamp_of(cib: ET.Element) -> Stamp:
    """What a CIB says of seeds; nothing where none was ever applied."""
    found = {
        pair.get("name"): pair.get("value", "")
        for pair in cib.iterfind(f".//cluster_property_set[@id='{STAMP}']/nvpair")
    }
    return Stamp(found.get(_GENERATION), tuple(found.get(_HISTORY, "").split()), _unpacked(found.get(_IDS, "")))


def stamped(payload: ET.Element, generation: str, history: tuple[str, ...] = ()) -> ET.Element:
    """The payload with the stamp of its generation in it."""
    made = copy.deepcopy(payload)
    ids = frozenset(_ids(made))
    passed = (*(each for each in history if each != generation), generation)[-_REMEMBERED:]
    values = {_GENERATION: generation, _HISTORY: " ".join(passed), _IDS: _packed(ids)}
    block = ET.SubElement(_section(made, "crm_config"), "cluster_property_set", {"id": STAMP})
    for name, value in values.items():
        ET.SubElement(block, "nvpair", {"id": f"{STAMP}-{name}", "name": name, "value": value})
    return made


def merged(current: ET.Element, payload: ET.Element, generation: str) -> Merged:
    """The current CIB with what the payload says, without what an earlier payload said and this one does not."""
    stamp = stamp_of(current)
    wanted = stamped(payload, generation, stamp.history)
    kept = frozenset(_ids(wanted))
    made = copy.deepcopy(current)
    _drop(made, stamp.ids - kept)
    for section in _configuration(wanted):
        for element in section:
            if element.get("id") is not None:
                _merge(made, _section(made, section.tag), element, stamp.ids | kept)
    notes = _tidy(made, kept, frozenset(_ids(current)) - frozenset(_ids(made)))
    return Merged(made, _canonical(made) != _canonical(current), tuple(notes))


def bump(cib: ET.Element) -> None:
    """Make it the next version, as Pacemaker counts: a change of the configuration is an epoch."""
    cib.set("epoch", str(int(cib.get("epoch", "0")) + 1))
    cib.set("num_updates", "0")


def _merge(root: ET.Element, parent: ET.Element, wanted: ET.Element, ours: frozenset[str]) -> None:
    """Make the tree have `wanted`, in `parent`, or within what an operator has put around it."""
    there, place = _find(root, parent, wanted)
    if there is not None and (there.tag != wanted.tag or (place is not parent and _is_seeds(place, ours))):
        place.remove(there)
        if there.tag == wanted.tag:
            parent.append(there)
        else:
            there = None
    if there is None:
        there = ET.SubElement(parent, wanted.tag)
    there.attrib.clear()
    there.attrib.update(wanted.attrib)
    there.text = wanted.text
    for child in wanted:
        if isinstance(child.tag, str):
            _merge(root, there, child, ours)
    _order(there, wanted)


def _find(root: ET.Element, parent: ET.Element, wanted: ET.Element) -> tuple[ET.Element | None, ET.Element]:
    """The element that `wanted` is about, and what it is in: by id anywhere in the configuration, else by tag here."""
    name = wanted.get("id")
    if name is None or wanted.tag in _POINTERS:
        same = (child for child in parent if child.tag == wanted.tag and child.get("id") == name)
        return next(same, None), parent
    for place in _configuration(root).iter():
        for child in place:
            if child.get("id") == name and child.tag not in _POINTERS:
                return child, place
    return None, parent


def _is_seeds(place: ET.Element, ours: frozenset[str]) -> bool:
    """Whether what something of ours stands in is a section, or ours too: no operator's doing."""
    return place.get("id") is None or place.get("id") in ours


def _tidy(cib: ET.Element, kept: frozenset[str], gone: frozenset[str]) -> list[str]:
    """Take away what operators made about resources that went, as the CIB would not be valid with it; say what."""
    notes = []
    resources = _section(cib, "resources")
    empty = [each for each in resources.iter() if each.tag in _WRAPPERS and all(e.tag not in _MEMBERS for e in each)]
    names = {each.get("id") for each in empty}
    for place in list(resources.iter()):
        for each in [child for child in place if child.get("id") in names]:
            place.remove(each)
            notes.append(f"the {each.tag} {each.get('id')} went: nothing is left in it")
    gone |= {name for name in names if name}
    constraints = _section(cib, "constraints")
    for each in list(constraints):
        about = {each.get(name) for name in _REFERENCES} | {ref.get("id") for ref in each.iter("resource_ref")}
        if each.get("id") not in kept and about & gone:
            constraints.remove(each)
            notes.append(f"the constraint {each.get('id')} went with the resource it was about")
    for tag in list(cib.iterfind("./configuration/tags/tag")):
        for reference in [each for each in tag if each.get("id") in gone]:
            tag.remove(reference)
    return notes


def _order(there: ET.Element, wanted: ET.Element) -> None:
    """What the payload has comes in its order (a group's members start in theirs), all else after it."""
    keys = [(child.tag, child.get("id")) for child in wanted]
    mine = [child for child in there if (child.tag, child.get("id")) in keys]
    sorted_mine = sorted(mine, key=lambda child: keys.index((child.tag, child.get("id"))))
    if mine != sorted_mine:
        others = [child for child in there if child not in mine]
        there[:] = [*sorted_mine, *others]


def _drop(root: ET.Element, names: frozenset[str]) -> None:
    for place in list(_configuration(root).iter()):
        for child in list(place):
            if child.get("id") in names and child.tag not in _POINTERS:
                place.remove(child)


def _ids(cib: ET.Element) -> Iterator[str]:
    for each in _configuration(cib).iter():
        if (name := each.get("id")) is not None and each.tag not in _POINTERS:
            yield name


def _configuration(cib: ET.Element) -> ET.Element:
    return cib if cib.tag == "configuration" else _child(cib, "configuration")


def _section(cib: ET.Element, tag: str) -> ET.Element:
    return _child(_configuration(cib), tag)


def _child(parent: ET.Element, tag: str) -> ET.Element:
    found = parent.find(tag)
    return found if found is not None else ET.SubElement(parent, tag)


def _canonical(cib: ET.Element) -> str:
    return ET.canonicalize(ET.tostring(_configuration(cib), encoding="unicode"), strip_text=True)


def _packed(names: frozenset[str]) -> str:
    """The ids as a short word: a list of two kilobytes would stand in the way of all who read the configuration."""
    return base64.b64encode(zlib.compress(" ".join(sorted(names)).encode(), 9)).decode()


def _unpacked(text: str) -> frozenset[str]:
    try:
        return (
            frozenset(zlib.decompress(base64.b64decode(text, validate=True)).decode().split()) if text else frozenset()
        )
    except (ValueError, zlib.error, binascii.Error):
        return frozenset()
