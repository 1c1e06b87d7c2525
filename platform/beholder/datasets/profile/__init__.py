"""What a table holds: its columns guessed, agreement, a description."""
