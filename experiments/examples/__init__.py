"""Worked examples of what ``docs/plug_in.md`` describes: a world model and a planner that are not of this package."""
