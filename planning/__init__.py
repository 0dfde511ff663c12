"""colaworld.planning"""
