"""Models: their files, their configs and forms, and the torch modules for training and reference."""
