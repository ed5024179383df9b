"""The loop that yields events, its checkpoints, and the directory of a run."""
