"""TODO atlas.evaluation"""
