"""How good, how much better, how sure: pure functions of annotations and scores."""
