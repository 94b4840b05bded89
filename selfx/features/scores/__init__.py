"""How true a description is."""
