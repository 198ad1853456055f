"""The XML of an OVF descriptor as a tree that knows its lines, read so that a hostile one does no harm."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from builder.image.verify.checks import Findings

if TYPE_CHECKING:
    from pyexpat import XMLParserType

OVF_URI = "http://schemas.dmtf.org/ovf/envelope/1"
NEEDED_PREFIXES = {
    "ovf": OVF_URI,
    "rasd": "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData",
    "vssd": "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData",
    "vmw": "http://www.vmware.com/schema/ovf",
}
USUAL_PREFIXES = {
    "cim": "http://schemas.dmtf.org/wbem/wscim/1/common",
    "xsi": "http://www.w3.org/2001/XMLSchema-instance",
    "vbox": "http://www.virtualbox.org/ovf/machine",
}
OVF, RASD, VSSD, VMW = (f"{{{uri}}}" for uri in NEEDED_PREFIXES.values())
VBOX = f"{{{USUAL_PREFIXES['vbox']}}}"


class Document:
    """A parsed descriptor: its root, the prefixes the root declares, and findings that know their line."""

    def __init__(self, root: Element, builder: _Builder, name: str, findings: Findings) -> None:
        self.root = root
        self.prefixes = builder.prefixes
        self._lines = builder.lines
        self._name = name
        self._findings = findings

    def add(self, check: str, element: Element, message: str, *, hint: str = "") -> None:
        """A finding at the element's line."""
        self._findings.add(check, self._name, f"line {self.line(element)}", message, hint=hint)

    def line(self, element: Element) -> int:
        """The line the element begins in, from 1."""
        return self._lines.get(element, 1)


class _Builder(TreeBuilder):
    """Builds the tree, and notes lines and the root's prefixes."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[Element, int] = {}
        self.prefixes: dict[str, str] = {}
        self.expat: XMLParserType | None = None

    def start(self, tag: str, attrs: dict[str, str], /) -> Element:
        element: Element = super().start(tag, attrs)
        if self.expat is not None:
            self.lines[element] = self.expat.CurrentLineNumber
        return element

    def start_ns(self, prefix: str, uri: str) -> None:
        if not self.lines:
            self.prefixes[prefix] = uri


def parse(data: bytes, name: str, findings: Findings) -> Document | None:
    """The descriptor `name` as a tree, or None and a finding where it is not well-formed or has a DTD."""
    builder = _Builder()
    # defusedxml builds on the parser written in Python, which shows its expat parser; the one in C hides it.
    parser = DefusedXMLParser(target=builder, forbid_dtd=True)
    builder.expat = parser.parser
    try:
        parser.feed(data)
        root = parser.close()
    except DefusedXmlException as error:
        said = f"a DTD or an entity ({type(error).__name__}): a descriptor needs none, and it can hide anything"
        findings.add("ovf.xml", name, f"line {builder.expat.CurrentLineNumber}", said, hint="remove the DOCTYPE")
        return None
    except ParseError as error:
        line, column = error.position
        said = f"not well-formed XML: {str(error).split(':')[0]} in column {column + 1}"
        findings.add("ovf.xml", name, f"line {line}", said, hint="an & or < in a text has to be escaped")
        return None
    except (ValueError, LookupError) as error:  # an encoding that expat or Python does not know
        findings.add("ovf.xml", name, "", f"not readable as XML: {error}", hint="write it in UTF-8")
        return None
    return Document(root, builder, name, findings)


def local(element: Element) -> str:
    """The element's name without its namespace."""
    return element.tag.rpartition("}")[2]


def text(element: Element | None) -> str:
    """The text of an element without the space around it, "" where there is no element."""
    return "" if element is None else (element.text or "").strip()


def number(value: str | None) -> int | None:
    """A whole number of up to 19 digits, else None."""
    return int(value) if value is not None and re.fullmatch(r"[0-9]{1,19}", value) else None
