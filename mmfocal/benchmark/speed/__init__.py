"""Time and memory of backbones and of the attention operator."""
