"""Of the optim layer."""
