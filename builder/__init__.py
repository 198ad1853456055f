"""hapx-build: bakes, packages, seeds and clones a self-forming HAProxy cluster appliance."""

__version__ = "0.1.0"
