"""Configs that ship with the package; each says what it reproduces and where its settings were read."""
