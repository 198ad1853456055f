"""The cluster spec: one YAML file that says what a cluster is."""
