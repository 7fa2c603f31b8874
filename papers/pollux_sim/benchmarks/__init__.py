"""Speed and quality beside other libraries."""
