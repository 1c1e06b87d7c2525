"""What is served: bundles, who gets which method, and versions in MLflow's model registry."""
