"""Adapters of servers for language models, one file each; `known.find` gives one by its name."""
