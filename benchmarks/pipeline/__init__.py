"""Benchmarks of what happens to a bucket: each against the bare cost of the same work on the same machine."""
