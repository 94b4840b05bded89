"""Features: sparse dictionaries of activations, what excites a direction, and what it means."""
