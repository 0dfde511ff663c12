"""Real robot actions to latent actions and back into planning: the bridge between a CoLA model and a planner."""

SHIPPED_PRESET = "tiny_conv"
"""The preset whose weights ship."""
