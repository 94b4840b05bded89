"""Models taught to answer questions about a target from the target's own activations."""
