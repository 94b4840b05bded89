"""Families by name, and how a checkpoint's `config.json` declares the architecture of one.

A family is a row of a table: what it is made of, the keys that it reads, and a function from those
to the switches of `selfx.models.config.Config`. One that has nothing new inside is a row in
`llamas`, a table of tensors in `selfx.weights.tables`, and a golden file in the tests.
"""

from selfx.models.zoo.read import FAMILIES, check_family, checked, config_from_hf

__all__ = ["FAMILIES", "check_family", "checked", "config_from_hf"]
