"""Features in words: describers, published descriptions, chat models."""
