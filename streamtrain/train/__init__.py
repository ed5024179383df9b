"""Of the train layer."""
