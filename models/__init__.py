"""colaworld.models"""
