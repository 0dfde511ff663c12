"""Tensors to tensors: codec, latent action model, video world model and their composition. Imports no other room."""
