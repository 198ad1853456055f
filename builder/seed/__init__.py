"""What a node finds on its CD: NoCloud documents, the secrets in them, and the ISO that carries them."""
