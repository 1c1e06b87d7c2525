"""From an experiment file to a registered version, and what prepares, searches, records and compares runs."""
