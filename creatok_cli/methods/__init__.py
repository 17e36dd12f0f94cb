"""Creative methods: what learns or finds artefacts."""
