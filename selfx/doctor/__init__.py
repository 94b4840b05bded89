"""Proof that a model runs as it was trained.

Five groups of checks, each of which can fail where the others pass:

- the tokenizer gives texts back and stays inside the embedding;
- nothing changes a result that must not: an edit that changes nothing, company, padding, a cache;
- what is captured is what the model computes with;
- every step of every layer is what the checkpoint says, computed anew in float64 NumPy from what
  the model had just before it;
- every weight is the checkpoint's.

The last two read the checkpoint themselves: the architecture through transformers' config classes
(without torch) or from a GGUF file's metadata, tensors by their own names. Where a step fails,
usual mistakes are tried one by one, and the report says which of them gives what the model has.
"""
