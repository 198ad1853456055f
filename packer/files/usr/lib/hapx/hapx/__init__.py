"""The node's own tool: how the cluster is, and how it comes to be what its seed says.

It needs Python's standard library alone, and python3-yaml where it reads a seed. Only `cli` prints.
"""
