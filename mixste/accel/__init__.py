"""Speed: the network of `mixste.model` computed faster, up to rounding."""
