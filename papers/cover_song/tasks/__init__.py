"""Songs that the experiments are made on, and how the network is trained."""
