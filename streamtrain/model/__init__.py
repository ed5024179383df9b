"""What is computed: architectures, their scores and losses, and metrics."""
