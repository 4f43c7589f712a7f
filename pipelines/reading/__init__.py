"""Which windows are due, how they are cut into slices and read. Stores nothing."""
