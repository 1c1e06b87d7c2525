"""Ray: starting it, and training on it. Nothing below this room knows of Ray."""
