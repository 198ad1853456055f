"""What has to hold between the parts of a spec; each check is a pure function from a cluster to issues."""

from __future__ import annotations

from collections.abc import Iterator

from builder.spec.checks import access, addresses, fencing, haproxy, membership, networks, nodes
from builder.spec.issues import Issue
from builder.spec.model import Cluster


def check(cluster: Cluster) -> Iterator[Issue]:
    """Every issue of a cluster whose keys and types are in order."""
    for subject in (networks, nodes, addresses, membership, haproxy, fencing, access):
        yield from subject.check(cluster)
