"""What jobs run: measured or fitted applications, and workloads of them."""
