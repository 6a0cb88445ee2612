"""The pocket model, its SAEs and texts."""
