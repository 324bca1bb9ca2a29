"""Why a module is no straight line of layers."""


class Obstacle(Exception):
    """Why a module is no straight line of layers, in words that name the layer."""
