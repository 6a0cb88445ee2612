"""TODO atlas.contrast"""
