"""TODO atlas.scoring"""
