"""How to choose actions, given anything that can be imagined. Imports no other room of ``colaworld``."""
