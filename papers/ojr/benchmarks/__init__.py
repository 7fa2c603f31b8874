"""What a penalty costs beside a plain step and other penalties."""
