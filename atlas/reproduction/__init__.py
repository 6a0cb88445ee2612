"""TODO atlas.reproduction"""
