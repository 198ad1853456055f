"""Putting what was baked where others take it, and taking it from there."""

from __future__ import annotations

from pathlib import Path

from builder.progress import Reporter
from builder.publish import address, oci, release, store
from builder.publish.address import Address, Kind
from builder.publish.store import Published, Store


def publish(ova: Path, target: Address, reporter: Reporter) -> Published:
    """Publish an OVA that `hapx-build image` made, with what it wrote beside, under its version.

    Everything is checked against SHA256SUMS first and read back afterwards. A version that was published is never
    changed, `latest` moves last, and a run that was interrupted is taken up again.

    Raises InputError (files, address, credentials), OutputExistsError (this version with other bytes), UntrustedError
    (a digest is wrong), UnreachableError, NoSpaceError, BusyError.
    """
    reporter.begin("check", title="Check the files and their digests")
    found = release.collect(ova, lambda done, total: reporter.advance(done, total, unit="B"))
    reporter.end()
    if target.kind is Kind.OCI:
        return oci.upload(found, ova.parent, oci.Registry(target.host, target.path), reporter, tag=target.tag)
    return store.upload(found, ova.parent, open_store(target), reporter, address=target.text)


def open_store(target: Address) -> Store:
    """The store an address (of any kind but OCI) leads to."""
    match target.kind:
        case Kind.HTTP:
            from builder.publish.web import Web

            return Web(target.text)
        case Kind.S3:
            from builder.publish.s3 import Bucket

            return Bucket(target.host, target.path)
        case _:
            from builder.publish.folder import Folder

            return Folder(Path(target.path))


__all__ = ["Address", "Published", "address", "open_store", "publish"]
