"""What libvirt is given: domains and networks, held against the RNG schemas that it ships."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_interface, ip_network
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree as ET

import pytest
from lxml import etree

from builder.hypervisor import Base, ExtraDisk, Machine, Nic
from builder.hypervisor.libvirt import domain, network
from builder.hypervisor.libvirt.domain import Mark
from builder.hypervisor.libvirt.storage import Place
from builder.spec.model import Firmware, NetworkKind

SCHEMAS = Path("/usr/share/libvirt/schemas")
UUID = "11111111-2222-4333-8444-555555555555"
PLACE = Place(PurePosixPath("/pool"))
BASE = Base("hapx-1.2.3-amd64", "ab" * 32)
MARK = Mark("pair", BASE.name, BASE.sha256, "")
SEED = "node1.seed.0123456789abcdef.iso"


def nic(kind: NetworkKind, name: str | None = None, subnets: Sequence[str] = (), adapter: str = "virtio") -> Nic:
    return Nic("lan", kind, name, adapter, "02:00:00:00:00:11", False, tuple(map(ip_network, subnets)))


NICS = (
    nic(NetworkKind.HOSTONLY, None, ("192.0.2.0/24", "2001:db8::/64")),
    replace(nic(NetworkKind.INTNET, "wire", adapter="e1000"), mac="02:00:00:00:00:12"),
    replace(nic(NetworkKind.NAT, adapter="vmxnet3"), mac="02:00:00:00:00:13"),
    replace(nic(NetworkKind.BRIDGED, "br0"), mac="02:00:00:00:00:14"),
)
MACHINE = Machine("pair", "node1", BASE, 2, 1024, NICS, (ExtraDisk("logs", 64),), Path("seed.iso"))
UNDER_UEFI = replace(MACHINE, firmware=Firmware.UEFI)


def made(machine: Machine = MACHINE, *, kvm: bool = False, mark: Mark = MARK, seed: str = SEED) -> ET.Element:
    return domain.definition(machine, UUID, PLACE, seed, kvm=kvm, mark=mark)


def validate(document: ET.Element, schema: str) -> None:
    if not SCHEMAS.is_dir():
        pytest.skip("no libvirt here, whose schemas these are")
    rules = etree.RelaxNG(etree.parse(SCHEMAS / f"{schema}.rng"))
    rules.assertValid(etree.fromstring(ET.tostring(document)))


@pytest.mark.parametrize("kvm", [True, False])
def test_a_domain_meets_libvirts_schema(kvm: bool) -> None:
    validate(made(kvm=kvm), "domain")


def test_a_domain_under_uefi_meets_libvirts_schema() -> None:
    validate(made(UNDER_UEFI), "domain")


def test_under_uefi_it_starts_without_secure_boot_and_keeps_its_variables_among_its_volumes() -> None:
    system = made(UNDER_UEFI).find("os")
    assert system is not None
    assert (system.get("firmware"), system.findtext("nvram")) == ("efi", "/pool/node1.nvram.fd")
    assert [feature.attrib for feature in system.findall("firmware/feature")] == [
        {"enabled": "no", "name": "secure-boot"}
    ]
    assert made().find("os").attrib == {}  # type: ignore[union-attr]


def test_an_unfinished_domain_meets_libvirts_schema() -> None:
    validate(domain.unfinished("node1", UUID, MARK), "domain")


@pytest.mark.parametrize("card", [each for each in NICS if each.kind is not NetworkKind.BRIDGED], ids=lambda n: n.kind)
def test_a_network_meets_libvirts_schema(card: Nic) -> None:
    validate(network.definition(card), "network")


@pytest.mark.parametrize(("kvm", "kind", "cpu"), [(True, "kvm", "host-passthrough"), (False, "qemu", "maximum")])
def test_it_runs_on_the_processor_only_where_that_works(kvm: bool, kind: str, cpu: str) -> None:
    found = made(kvm=kvm)
    assert (found.get("type"), found.find("cpu").get("mode")) == (kind, cpu)  # type: ignore[union-attr]


def test_cards_are_plugged_into_what_the_spec_says() -> None:
    cards = made().findall("devices/interface")
    told = [
        (card.get("type"), next(iter(card.find("source").attrib.values())), card.find("model").get("type"))  # type: ignore[union-attr]
        for card in cards
    ]
    assert told == [
        ("network", "hapx-hostonly-192.0.2.0-24", "virtio"),
        ("network", "wire", "e1000"),
        ("network", "hapx-nat", "vmxnet3"),
        ("bridge", "br0", "virtio"),
    ]


def test_names_are_text_and_never_markup() -> None:
    found = ET.fromstring(ET.tostring(made(replace(MACHINE, nics=(nic(NetworkKind.INTNET, "a'<b>&\""),)))))
    assert found.find("devices/interface/source").get("network") == "a'<b>&\""  # type: ignore[union-attr]


def test_a_guest_that_panics_starts_again() -> None:
    found = made()
    assert (found.findtext("on_crash"), found.findtext("on_reboot")) == ("restart", "restart")
    assert found.find("devices/panic") is not None
    assert found.find("devices/watchdog").get("action") == "reset"  # type: ignore[union-attr]


def test_a_mark_is_read_back() -> None:
    mark = replace(MARK, definition="0123456789abcdef")
    assert domain.mark_of(ET.fromstring(ET.tostring(made(mark=mark)))) == mark
    assert not domain.mark_of(domain.unfinished("node1", UUID, mark)).finished  # type: ignore[union-attr]


def test_a_domain_of_somebody_else_has_no_mark() -> None:
    assert domain.mark_of(ET.fromstring("<domain><metadata><other xmlns='urn:other'/></metadata></domain>")) is None


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"cpus": 1}, ["processors: 1 instead of 2"]),
        ({"memory_mib": 2048}, ["memory: 2048 MiB instead of 1024 MiB"]),
        ({"firmware": Firmware.UEFI}, ["firmware: uefi instead of bios"]),
        ({"nics": NICS[:3]}, ["no network card 02:00:00:00:00:14"]),
        ({"disks": ()}, ["no disk vdb"]),
        (
            {"nics": (*NICS[:3], replace(NICS[3], name="br1"))},
            ["network card 02:00:00:00:00:14: virtio on bridge br1 instead of virtio on bridge br0"],
        ),
        ({"seed": Path("other.iso")}, []),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_differences_are_said_in_words(changed: dict[str, object], words: list[str]) -> None:
    digest = domain.digest(made())
    actual = made(mark=replace(MARK, definition=digest))
    assert list(domain.differences(actual, made(replace(MACHINE, **changed)))) == words  # type: ignore[arg-type]


def test_another_cd_mark_or_uuid_is_no_other_definition() -> None:
    other = domain.definition(MACHINE, UUID.replace("1", "9"), PLACE, "x.iso", kvm=False, mark=replace(MARK, base="y"))
    assert domain.digest(other) == domain.digest(made())
    assert domain.digest(made(kvm=True)) != domain.digest(made())


def test_what_an_older_version_made_is_made_anew() -> None:
    assert domain.differences(made(mark=replace(MARK, definition="0" * 16)), made()) == ("its definition",)


def test_an_internal_network_has_no_address() -> None:
    assert network.addresses(network.definition(NICS[1])) == []
    assert network.isolated(network.definition(NICS[1]))


def test_the_host_has_the_first_address_of_each_host_only_subnet_and_gives_none_away() -> None:
    made = network.definition(NICS[0])
    assert network.addresses(made) == [ip_interface("192.0.2.1/24"), ip_interface("2001:db8::1/64")]
    assert made.find("ip/dhcp") is None
    assert made.find("dns").get("enable") == "no"  # type: ignore[union-attr]


def test_a_host_only_network_keeps_what_another_cluster_has_on_it() -> None:
    kept = [ip_interface("198.51.100.1/24")]
    assert network.addresses(network.definition(NICS[0], kept=kept))[0] == kept[0]


def test_a_nat_network_keeps_away_from_what_is_there() -> None:
    taken = [ip_network("192.168.131.0/24"), ip_network("192.168.132.128/25"), ip_network("2001:db8::/64")]
    (address,) = network.addresses(network.definition(NICS[2], taken=taken))
    assert address == ip_interface("192.168.133.1/24")
    with pytest.raises(StopIteration):
        network.definition(NICS[2], taken=[ip_network("192.168.0.0/16")])


def test_a_network_is_ours_by_its_uuid() -> None:
    assert network.definition(NICS[1]).findtext("uuid") == str(network.uuid("wire"))
    assert network.uuid("wire") != network.uuid("other")
