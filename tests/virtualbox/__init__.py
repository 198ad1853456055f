"""A real VirtualBox for tests: Debian sid's, in a root of its own, without the kernel module."""
