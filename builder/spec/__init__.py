"""The cluster spec: one YAML file that says what a cluster is."""

from builder.spec.loading import load
from builder.spec.model import Cluster, Network, Node, Vip

__all__ = ["Cluster", "Network", "Node", "Vip", "load"]
