"""What is generated: points of the plane and images, and the networks that make them."""
