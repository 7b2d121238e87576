"""The move itself: states, steps, checks, the engine that drives them, read-back, and recovery."""
