"""Judges: who rates, from 1 to 5, how well a description agrees with the true one, and whether
judges agree with one another.

A judge is a chat model behind an endpoint, a model that runs here, or the likeness of wordings.
Several stand side by side in the folder of an evaluation, whose own scores none of them touches.
"""
