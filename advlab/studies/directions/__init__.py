"""Which images stimulate units and other directions most."""
