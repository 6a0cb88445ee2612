"""TODO atlas.steering"""
