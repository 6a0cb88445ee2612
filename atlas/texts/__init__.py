"""TODO atlas.texts"""
