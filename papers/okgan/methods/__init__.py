"""What is compared: OKGAN and its relatives on one generator, one schedule, one loop."""
