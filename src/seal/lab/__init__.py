"""A small generated world and a small shipped model to try the package on."""
