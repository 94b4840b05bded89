"""Answers scored: read out of free text, and held against what really happened."""
