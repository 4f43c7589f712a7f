"""Plans which windows are due, cuts them into slices and reads these. Storing: warehouse."""
