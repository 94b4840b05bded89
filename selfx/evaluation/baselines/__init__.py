"""What answers without having learned to: constants, look-ups, examples shown, a linear probe."""
