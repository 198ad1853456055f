"""The scalars of a cluster spec: each a pydantic type and, in `TEXTS`, what it takes in plain words."""

from __future__ import annotations

import re
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainValidator, StringConstraints, WithJsonSchema
from pydantic_core import PydanticCustomError

# One label of a host name (RFC 1123, 2.1), in lower case as the node itself will show it.
_LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = rf"{_LABEL}(\.{_LABEL})*"
HOST_NAME = f"^{_LABEL}$"
DOMAIN_NAME = f"^{_DOMAIN}$"
NAME = "^[a-z][a-z0-9_-]{0,62}$"
CLUSTER_NAME = "^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$"
MAC = "^([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$"
LINE = "^[^\\x00-\\x1f\\x7f]+$"
WORDS = "^[^\\x00-\\x1f\\x7f]*$"
# Arguments of VBoxManage and virsh: what begins with a hyphen would be an option there.
DEVICE = "^[^\\x00-\\x1f\\x7f-][^\\x00-\\x1f\\x7f]*$"
DURATION = "^[1-9][0-9]{0,6}(ms|s|m|h)$"
ACCOUNT = "^[a-z_][a-z0-9_-]{0,30}$"
# It goes through a shell on the host, and through Pacemaker's list of NODE:MACHINE;NODE:MACHINE.
MACHINE = "^[A-Za-z0-9_][A-Za-z0-9._-]{0,79}$"
STATS_USER = "^[A-Za-z0-9._-]{1,32}$"
TIME_ZONE = "^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$"
HOST_URI = "^[a-z][a-z0-9+]*://[^\\s\\x00-\\x1f\\x7f]*$"

TEXTS = {
    HOST_NAME: "lower-case letters, digits and hyphens, at most 63, no hyphen at either end",
    DOMAIN_NAME: "a domain name in lower case: letters, digits, hyphens and dots",
    NAME: "a lower-case letter first, then lower-case letters, digits, '-' and '_', at most 63",
    CLUSTER_NAME: "lower-case letters, digits and hyphens, at most 32, no hyphen at either end",
    MAC: "a MAC address: six pairs of hexadecimal digits with colons, 02:00:5e:10:00:01",
    LINE: "one line of text",
    WORDS: "words on one line",
    DEVICE: "the name of a network or an interface on the host, not beginning with a hyphen",
    DURATION: "a number with its unit: ms, s, m or h, as in 30s or 1h",
    ACCOUNT: "a user name: lower-case letters, digits, '-' and '_', at most 31, a letter first",
    MACHINE: "letters, digits, '.', '_' and '-', at most 80, not beginning with '.' or '-'",
    STATS_USER: "letters, digits, '.', '_' and '-', at most 32",
    TIME_ZONE: "a name of the tz database, as in Etc/UTC or Europe/Berlin",
    HOST_URI: "ssh://user@host, or a libvirt URI as in qemu:///system or qemu+ssh://host/system",
}
"""What each pattern takes, for people; a test holds it against the model."""


def _refuse(message: str) -> PydanticCustomError:
    return PydanticCustomError("spec", "{text}", {"text": message})


def _address(value: Any) -> IPv4Address | IPv6Address:
    if isinstance(value, IPv4Address | IPv6Address):
        return value
    try:
        address = ip_address(value) if isinstance(value, str) else None
    except ValueError:
        address = None
    if address is None:
        without_prefix = value.partition("/")[0] if isinstance(value, str) else ""
        hint = f"; without the prefix length: {without_prefix}" if _is_address(without_prefix) else ""
        raise _refuse(f"must be an IPv4 or IPv6 address{hint}")
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise _refuse("must be an address without a zone (%…): a zone is another one on each machine")
    return address


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _address6(value: Any) -> IPv6Address:
    address = _address(value)
    if isinstance(address, IPv4Address):
        raise _refuse("must be an IPv6 address")
    return address


def _subnet(value: Any) -> IPv4Network | IPv6Network:
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    if not isinstance(value, str) or "/" not in value:
        raise _refuse("must be a subnet with its prefix length, as in 192.168.56.0/24")
    try:
        loose = ip_network(value, strict=False)
    except ValueError:
        raise _refuse("must be a subnet with its prefix length, as in 192.168.56.0/24") from None
    # Python takes netmasks too, and reads 0.0.0.255 as /24.
    if not re.fullmatch(r"\d{1,3}", value.partition("/")[2]):
        raise _refuse(f"must have a prefix length, not a netmask: {loose}")
    if ip_address(value.partition("/")[0]) != loose.network_address:
        raise _refuse(f"must be the subnet itself, not an address in it: {loose}")
    return loose


def _host(value: Any) -> str:
    """A host name or an IP address, as text."""
    if not isinstance(value, str) or not ((_is_address(value) and "%" not in value) or _is_domain(value)):
        raise _refuse("must be an IP address, or a host name in lower case")
    return value


def _is_domain(text: str) -> bool:
    # What is all digits and dots is a mistyped address, never a name: no top-level domain is a number (RFC 3696, 2).
    return len(text) <= 253 and re.fullmatch(_DOMAIN, text) is not None and not text.rpartition(".")[2].isdigit()


def _one_or_more(value: Any) -> Any:
    """A single address as a tuple of one: most nodes have one on a network, and a list of one reads badly."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


_ADDRESS6_SCHEMA = {"type": "string", "format": "ipv6"}
_ADDRESS_SCHEMA = {"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}
_ADDRESSES_SCHEMA = {"anyOf": [_ADDRESS_SCHEMA, {"type": "array", "items": _ADDRESS_SCHEMA, "minItems": 1}]}
SUBNET_SCHEMA = {"type": "string", "pattern": "^[0-9A-Fa-f:.]+/[0-9]{1,3}$"}
HOST_SCHEMA = {"type": "string", "pattern": "^[0-9A-Fa-f:.]+$|" + DOMAIN_NAME, "maxLength": 253}

Address = Annotated[IPv4Address | IPv6Address, PlainValidator(_address), WithJsonSchema(_ADDRESS_SCHEMA)]
Address6 = Annotated[IPv6Address, PlainValidator(_address6), WithJsonSchema(_ADDRESS6_SCHEMA)]
Addresses = Annotated[
    tuple[Address, ...], Field(min_length=1), BeforeValidator(_one_or_more), WithJsonSchema(_ADDRESSES_SCHEMA)
]
Subnet = Annotated[IPv4Network | IPv6Network, PlainValidator(_subnet), WithJsonSchema(SUBNET_SCHEMA)]
HostAddress = Annotated[str, PlainValidator(_host), WithJsonSchema(HOST_SCHEMA)]
HostName = Annotated[str, Field(pattern=HOST_NAME)]
DomainName = Annotated[str, Field(pattern=DOMAIN_NAME, max_length=253)]
Name = Annotated[str, Field(pattern=NAME)]
Mac = Annotated[str, StringConstraints(pattern=MAC, to_lower=True)]
Line = Annotated[str, Field(pattern=LINE, max_length=1000)]
Words = Annotated[str, Field(pattern=WORDS, max_length=1000)]
Port = Annotated[int, Field(ge=1, le=65535)]
Duration = Annotated[str, Field(pattern=DURATION)]
