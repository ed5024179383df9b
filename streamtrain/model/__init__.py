"""Of the model layer."""
