"""What must hold under load, as functions with a scale: short in tests/end_to_end, full length in tests/soak."""
