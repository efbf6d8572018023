"""What a model is made of, and what is wrong with it."""
