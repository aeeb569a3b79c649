"""Pictures of what a network sees; behind tools/visualize.py."""
