"""Dictionaries trained on a stream of activations, many at once."""
