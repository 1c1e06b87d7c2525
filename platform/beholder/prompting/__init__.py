"""What a prompt contains besides the text."""
