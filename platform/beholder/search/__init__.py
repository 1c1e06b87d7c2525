"""What is searched of a method's settings, and the study that remembers it."""
