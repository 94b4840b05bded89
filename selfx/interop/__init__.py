"""Our models and activations in the form that other people's tools take."""
