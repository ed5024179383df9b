"""Of the reader layer."""
