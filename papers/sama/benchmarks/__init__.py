"""Speed, memory and accuracy beside other libraries."""
