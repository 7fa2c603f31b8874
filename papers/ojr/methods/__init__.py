"""The regulariser and its relatives, and how networks are trained with them and judged."""
