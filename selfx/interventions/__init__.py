"""Changing a forward pass: what to write, where, and how to run many such experiments at once."""
