"""TODO atlas.building"""
