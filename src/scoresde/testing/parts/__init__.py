"""What must hold of a part, by its kind."""
