"""What samples are worth: modes, divergences, and whether a discriminator goes in circles."""
