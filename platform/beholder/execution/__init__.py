"""What a worker does, without Ray: fit an arm, run a trial, measure forgetting."""
