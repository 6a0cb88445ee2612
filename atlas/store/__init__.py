"""TODO atlas.store"""
