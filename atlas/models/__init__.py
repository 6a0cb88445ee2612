"""TODO atlas.models"""
