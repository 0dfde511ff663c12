"""colaworld.experiments"""
