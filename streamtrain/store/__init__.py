"""Bytes on disk: the dataset's format, its manifest, and what reads and writes it."""
