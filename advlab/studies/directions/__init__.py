"""The study of units and other directions: the images that stimulate them most."""
