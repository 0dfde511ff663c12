"""colaworld.envs"""
