"""What `creatok doctor` looks at, one module per subject."""
