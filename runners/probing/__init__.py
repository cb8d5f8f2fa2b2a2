"""Hidden states of many texts: recorded layer by layer, written as they come, read again without a copy."""
