"""How parameters move: optimizers' settings and state, and schedules of the rate."""
