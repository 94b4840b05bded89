"""Decoders as frozen parameter trees, and pure functions of them."""
