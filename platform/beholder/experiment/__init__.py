"""The experiment file: it composes the settings of the rooms below, and nothing else."""
