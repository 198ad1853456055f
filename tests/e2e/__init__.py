"""Tests that boot what was baked, or read its disk as it is."""
