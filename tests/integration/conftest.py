"""Fixtures of the integration tests: a small disk, and the OVA our writer makes of it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from builder.image import ova
from builder.image.ovf import Appliance

MIB = 1 << 20


@pytest.fixture(scope="session")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw disk of 64 MiB: some data at its start, in its middle and at its very end, zeros between."""
    disk = tmp_path_factory.mktemp("small-disk") / "small.img"
    random_bytes = random.Random(1).randbytes
    with disk.open("wb") as file:
        for offset in (0, 3 * MIB, 10 * MIB, 64 * MIB - 65536):
            file.seek(offset)
            file.write(random_bytes(65536))
    return disk


@pytest.fixture(scope="session")
def small_appliance() -> Appliance:
    """An appliance that fills every field, with text that has to be escaped, and numbers that are nobody's default."""
    return Appliance(
        name="hapx-small_1.0+test",
        product="HAProxy <pair> & friends",
        vendor='"Somebody"',
        version="1.0",
        full_version="1.0 (naïve)",
        product_url="https://example.org/?a=1&b=2",
        vendor_url="https://example.org/",
        description="First line\nsecond line: 5 < 6 && 'x'",
        cpus=3,
        memory_mib=1280,
        networks=("NAT", "cluster", "service"),
    )


@pytest.fixture(scope="session")
def small_ova(small_disk: Path, small_appliance: Appliance, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The OVA of the small disk and the small appliance."""
    target = tmp_path_factory.mktemp("small-ova") / "small.ova"
    ova.write(small_disk, target, small_appliance, timestamp=1_700_000_000)
    return target
