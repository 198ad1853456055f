"""What cloud-init asks of the documents on a NoCloud medium, as far as it can be seen without cloud-init."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from builder.errors import Problem
from builder.seed.marked import NotYamlError, compose, entries, is_mapping, is_null, is_scalar

CLOUD_CONFIG = "#cloud-config"
# cloudinit.handlers.INCLUSION_TYPES_MAP: what user-data may begin with, in lower case.
_HEADERS = (CLOUD_CONFIG, "#!", "## template: jinja", "#cloud-boothook", "#include", "#part-handler", "content-type:")
_MIME_HEADER, _MIME_WITHIN = "mime-version:", 4096
_GZIP = b"\x1f\x8b"
_NEVER_NULL = {"user-data": {"hostname", "fqdn"}, "meta-data": {"instance-id", "local-hostname", "hostname"}}


def check(name: str, content: bytes, file: str) -> Iterator[Problem]:
    """What is wrong with a document (user-data, meta-data, network-config) that stands in `file`."""
    if name == "user-data" and (not content.strip() or is_compressed(content)):
        return
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        yield Problem(f"{file}:{line}", f"byte 0x{content[error.start]:02x} is not UTF-8")
        return
    if name == "user-data":
        if _MIME_HEADER not in text[:_MIME_WITHIN].lower():
            yield from _check_header(text, file)
        if not is_cloud_config(text):
            return
    try:
        root = compose(text)
    except NotYamlError as error:
        yield Problem(f"{file}:{error.line}", error.message)
        return
    if name == "user-data" and (is_null(root) or text.lstrip().lower().startswith(f"{CLOUD_CONFIG}-archive")):
        return
    if not is_mapping(root):
        yield Problem(f"{file}:1", "holds nothing" if is_null(root) else "not a mapping of names and values")
        return
    if name == "network-config":
        yield from _check_network(root, file)
    for key, node, line in entries(root):
        if key in _NEVER_NULL.get(name, ()) and is_null(node):
            yield Problem(f"{file}:{line}: {key}", "has no value", "after '#' YAML sees a comment")


def is_compressed(content: bytes) -> bool:
    """Whether a document is compressed, which cloud-init takes for user-data."""
    return content.startswith(_GZIP)


def is_cloud_config(text: str) -> bool:
    """Whether user-data is YAML as it stands."""
    return text.lstrip().lower().startswith(CLOUD_CONFIG)


def scalars(text: str) -> Iterator[str]:
    """Every single value in a YAML text, keys too; nothing where it is not YAML."""
    try:
        waiting = [compose(text)]
    except NotYamlError:
        return
    seen: set[int] = set()
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))  # an alias may lead back to where it stands
        if is_scalar(node):
            yield str(node.value)
        elif is_mapping(node):
            waiting += [part for pair in node.value for part in pair]
        else:
            waiting += node.value


def _check_header(text: str, file: str) -> Iterator[Problem]:
    start = text.lstrip().lower()
    if text.startswith("\ufeff"):
        yield Problem(f"{file}:1", "begins with a byte order mark, which cloud-init does not pass over", "take it out")
    elif not start.startswith(_HEADERS):
        yield Problem(f"{file}:1", "cloud-init does not know what this is", f"the first line is '{CLOUD_CONFIG}'")


def _check_network(root: Any, file: str) -> Iterator[Problem]:
    fields = {key: (node, line) for key, node, line in entries(root)}
    if "network" in fields and is_mapping(fields["network"][0]):
        fields = {key: (node, line) for key, node, line in entries(fields["network"][0])}
    if "version" not in fields:
        yield Problem(f"{file}:1", "has no version", "a line 'version: 1' or 'version: 2'")
        return
    node, line = fields["version"]
    if not is_scalar(node) or node.value not in {"1", "2"}:
        yield Problem(f"{file}:{line}: version", "neither 1 nor 2")
