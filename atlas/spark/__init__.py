"""TODO atlas.spark"""
