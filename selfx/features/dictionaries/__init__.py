"""Sparse dictionaries of activations: one form, every published layout, inspection."""
