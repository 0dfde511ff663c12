"""colaworld.adapters"""
