"""Of the cli layer."""
