"""What a person or a program is told: the account, shown in a terminal or written as data."""
