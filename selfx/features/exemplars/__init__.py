"""The texts that excite a feature, found for thousands of features in one pass."""
