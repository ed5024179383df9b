"""Which rows when: the order, windows filled from blocks, and batches."""
